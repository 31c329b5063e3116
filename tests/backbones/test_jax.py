"""JAX's archives, under the names of google-research/vision_transformer (vit_jax/models_vit.py)."""

import numpy as np
import pytest
import timm
import torch
from small import GIVEN, TINY

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.base.errors import WeightsError


def network(seed, **change):
    torch.manual_seed(seed)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY | change)


def arrays(state, heads=2):
    """The archive of a ViT: kernels [in, out], queries [D, heads, D / heads], patches [H, W, in, out]."""
    out = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "pre_logits/kernel": torch.rand(24, 24),
        "head/kernel": torch.rand(24, 7),
        "head/bias": torch.rand(7),
    }
    for block in range(2):
        there, here = f"Transformer/encoderblock_{block}/", f"blocks.{block}."
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            out[f"{there}{name}/scale"] = state[f"{here}{norm}.weight"]
            out[f"{there}{name}/bias"] = state[f"{here}{norm}.bias"]
        attention = f"{there}MultiHeadDotProductAttention_1/"
        for part, name in enumerate(("query", "key", "value")):
            weight = state[f"{here}attn.qkv.weight"].chunk(3)[part]
            out[f"{attention}{name}/kernel"] = weight.T.reshape(24, heads, 12)
            out[f"{attention}{name}/bias"] = state[f"{here}attn.qkv.bias"].chunk(3)[part].reshape(heads, 12)
        out[f"{attention}out/kernel"] = state[f"{here}attn.proj.weight"].T.reshape(heads, 12, 24)
        out[f"{attention}out/bias"] = state[f"{here}attn.proj.bias"]
        for layer in range(2):
            dense = f"{there}MlpBlock_3/Dense_{layer}/"
            out[f"{dense}kernel"] = state[f"{here}mlp.fc{layer + 1}.weight"].T
            out[f"{dense}bias"] = state[f"{here}mlp.fc{layer + 1}.bias"]
    return {name: value.numpy() for name, value in out.items()}


def build(path, name="vit_tiny_patch16_224", kwargs=TINY):
    return build_backbone(BackboneSettings(name=name, kwargs=kwargs, weights=str(path), **GIVEN))


def test_an_archive_gives_the_numbers_of_the_plain_state(tmp_path):
    state = network(1).state_dict()
    np.savez(tmp_path / "ViT.NPZ", **arrays(state))
    (tmp_path / "ViT.NPZ.npz").rename(tmp_path / "ViT.NPZ")
    built = build(tmp_path / "ViT.NPZ")
    assert all(torch.equal(value, state[name]) for name, value in built.encoder.state_dict().items())
    assert built.spec.mean == (0.5, 0.5, 0.5)
    assert built.taken.startswith(
        "weights: ViT.NPZ read as JAX, 30 tensors; left out: head/bias, "
        "head/kernel, pre_logits/kernel; input as JAX"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [({"depth": 3}, "KeyError"), ({"depth": 1}, "its blocks hold 14,448 numbers, those of the network 7,224"),
     ({"embed_dim": 48}, "RuntimeError")],
)  # fmt: skip
def test_another_network_is_refused(change, words, tmp_path):
    np.savez(tmp_path / "w.npz", **arrays(network(1).state_dict()))
    with pytest.raises(WeightsError, match=rf"does not fit backbone.name \(read as JAX\): .*{words}"):
        build(tmp_path / "w.npz", kwargs=TINY | change)
    with pytest.raises(
        WeightsError, match="holds a network of JAX; timm reads these into its ViTs and ResNetV2 alone"
    ):
        build(tmp_path / "w.npz", "resnet10t", {"channels": [8, 8, 8, 8]})


def test_an_archive_of_objects_is_not_read(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([print], dtype=object))
    with pytest.raises(WeightsError, match="is not a readable NumPy archive of numbers"):
        build(tmp_path / "w.npz")
