"""Shapes and names evened out, and what is said of it."""

import pytest
import torch
from checkpoint_layouts import authors, libraries
from checkpoint_layouts.names import BEIT, CLIP, DINOV3, RESNET, TINY, VIT, network, state_of

from drtune.backbones.fitting import load_encoder
from drtune.base.errors import WeightsError


def test_biases_that_the_network_has_no_place_for_are_not_dropped():
    state = authors.dinov3(state_of(DINOV3))
    state["blocks.1.attn.qkv.bias"] = torch.ones(72)
    with pytest.raises(WeightsError, match="unexpected: blocks.1.attn.qkv.bias"):
        load_encoder(network(DINOV3, 2), state, "head", "w.pth")


def test_a_first_convolution_for_grey_images_is_shared_among_the_colours_and_said():
    state, target = state_of(RESNET), network(RESNET, 2)
    grey = {**state, "conv1.weight": state["conv1.weight"][:, :1]}
    fit = load_encoder(target, grey, "fc", "w.pth")
    assert fit.changes == ["conv1.weight, for grey images, shared among red, green and blue"]
    images = torch.rand(1, 1, 32, 32).expand(1, 3, 32, 32)
    plain = torch.nn.functional.conv2d(images[:, :1], grey["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(target.conv1(images), plain)
    five = {**state, "conv1.weight": state["conv1.weight"][:, [0, 1, 2, 0, 1]]}
    with pytest.raises(
        WeightsError, match="these weights take images of 5 channels, .*; keep the channels of conv1"
    ):
        load_encoder(target, five, "fc", "w.pth")


def test_a_tuned_network_that_pools_the_mean_says_so():
    mean = ("vit_tiny_patch16_224", {**TINY, "global_pool": "avg"})
    state = state_of(mean)
    with pytest.raises(
        WeightsError, match=r"pool the mean of their tokens: set backbone.kwargs to \{global_pool: avg\}"
    ):
        load_encoder(network(VIT, 2), state, "head", "w.pth")
    plain = state_of(VIT)
    target = network(mean, 2)
    assert load_encoder(target, plain, "head", "w.pth").changes == [
        "norm, of the tokens, taken as fc_norm, of their mean"
    ]
    assert torch.equal(target.fc_norm.weight, plain["norm.weight"])


def test_positions_are_resampled_and_said_and_another_patch_is_another_network():
    large = (VIT[0], {**TINY, "img_size": 64})
    fit = load_encoder(network(large, 2), state_of(VIT), "head", "w.pth")
    assert fit.changes == ["resampled to this image size: pos_embed"]
    assert load_encoder(network(VIT, 2), state_of(VIT), "head", "w.pth").changes == []
    theirs = libraries.open_clip(state_of(CLIP))
    assert load_encoder(network((CLIP[0], large[1]), 2), theirs, "head", "w.pth").changes == fit.changes
    other = (CLIP[0], {**TINY, "patch_size": 16})
    with pytest.raises(WeightsError, match=r"another shape: patch_embed.proj.weight \(24, 3, 8, 8\) in"):
        load_encoder(network(other, 2), theirs, "head", "w.pth")
    with pytest.raises(WeightsError, match="another shape: patch_embed.proj.weight"):
        load_encoder(network((VIT[0], other[1]), 2), state_of(VIT), "head", "w.pth")


def test_tables_of_relative_positions_are_resampled_and_said():
    large = (BEIT[0], {**TINY, "img_size": 64})
    fit = load_encoder(network(large, 2), state_of(BEIT), "head", "w.pth")
    assert len(fit.changes) == 1
    assert fit.changes[0].startswith("resampled to this image size: blocks.0.attn.relative")


def test_a_network_whose_own_names_look_like_parts_keeps_them():
    cait = ("cait_xxs24_224", {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8})
    state, target = state_of(cait), network(cait, 2)
    assert "blocks_token_only.0.attn.q.weight" in state
    load_encoder(target, state, "head", "w.pth")
    assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items())
