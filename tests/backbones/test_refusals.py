"""What is wrong with a checkpoint, in words."""

import pytest
import torch
from checkpoint_layouts import authors, libraries
from checkpoint_layouts.names import (
    CLIP,
    RESNET,
    TINY,
    backbone,
    network,
    state_of,
)

from drtune.backbones.fitting import load_encoder
from drtune.base.errors import WeightsError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_heads_of_attention_leave_no_trace_in_shapes(tmp_path):
    six = ("vit_small_patch16_224", {**TINY, "num_heads": 6})
    torch.save(authors.moco_v3_vit(state_of(six)), tmp_path / "w.pth.tar")
    with pytest.raises(
        WeightsError,
        match="MoCo v3 at .* was trained with num_heads 12, and backbone.name makes a network with 6; the "
        "shapes "
        r"are equal, the results are not: set backbone.kwargs to \{num_heads: 12\}",
    ):
        backbone(six, tmp_path / "w.pth.tar", mean=list(IMAGENET[0]), std=list(IMAGENET[1]))


def test_the_activation_of_openai_leaves_none_either(tmp_path):
    torch.save(libraries.openai_clip(state_of(CLIP)), tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"act_layer quick_gelu, .* with gelu; .*\{act_layer: quick_gelu\}"
    ):
        backbone(CLIP, tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "bn1.weight",
            float("nan"),
            "bn1.weight holds NaN or infinity: the training that wrote it had diverged",
        ),
        ("layer1.0.conv1.weight", float("inf"), "layer1.0.conv1.weight holds NaN or infinity"),
        ("layer2.0.conv1.weight", 0.0, "layer2.0.conv1.weight holds zeros alone: the file was cut short"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(name, value, text):
    state, target = state_of(RESNET), network(RESNET, 2)
    before = target.conv1.weight.clone()
    state[name].fill_(value)
    with pytest.raises(WeightsError, match=f"w.pth: {text}"):
        load_encoder(target, {"state_dict." + key: part for key, part in state.items()}, "fc", "w.pth")
    assert torch.equal(target.conv1.weight, before)


def test_parts_unknown_within_the_encoder_are_refused_with_the_way_out():
    state = state_of(RESNET) | {"adapter.weight": torch.ones(2)}
    with pytest.raises(
        WeightsError, match=r"unexpected: adapter.weight\n  remedy: every tensor of the encoder is there; if"
    ):
        load_encoder(network(RESNET, 2), state, "fc", "w.pth")
