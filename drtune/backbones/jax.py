"""Weights of JAX in NumPy archives: ViTs (`ViT-B_16.npz`) and BiT's ResNets, by timm's own reader of them."""

from pathlib import Path

import torch
from torch import nn

from drtune.backbones.fitting import Fit
from drtune.backbones.naming import State
from drtune.backbones.refusals import refuse_dead
from drtune.backbones.weights import first_line
from drtune.backbones.wrappings import HALVES, Input, Wrapping
from drtune.base.errors import WeightsError

ANCHORS = ("embedding/kernel", "root_block/standardized_conv2d/kernel")
"""Every such file has one."""
JAX = Wrapping(
    "JAX",
    "",
    "google-research/vision_transformer vit_jax/input_pipeline.py; google-research/big_transfer "
    "input_pipeline_*.py",
    input=Input(HALVES.mean, HALVES.std),
)


def is_of_jax(state: State) -> bool:
    """Whether the names in a checkpoint are those of JAX's networks."""
    return any(key.endswith(ANCHORS) for key in state)


def load_jax(encoder: nn.Module, path: Path, state: State) -> Fit:
    """Copy a NumPy archive into an encoder in place; every number of the encoder comes from there.

    Args:
        encoder: timm model without its classifier.
        path: of the archive.
        state: its arrays, as read.

    Raises:
        WeightsError: the encoder is another one, or of a kind that timm does not read from JAX.
    """
    reader = getattr(encoder, "load_pretrained", None)
    if reader is None:
        raise WeightsError(
            f"backbone.weights: {path.name} holds a network of JAX; timm reads these into its ViTs and "
            f"ResNetV2 alone, and backbone.name makes a {type(encoder).__name__}; name such a model, or take "
            "its PyTorch weights"
        )
    with torch.no_grad():
        for value in encoder.parameters():
            value.fill_(torch.nan)  # what the reader leaves out stays so, and is seen
    try:
        reader(str(path))
    except Exception as fault:
        raise WeightsError(text(path, f"{type(fault).__name__}: {first_line(fault)}")) from None
    left = [name for name, value in encoder.named_parameters() if bool(value.isnan().any())]
    if left:
        raise WeightsError(text(path, f"it gives no numbers for {', '.join(left[:10])}"))
    theirs = sum(value.numel() for key, value in state.items() if "encoderblock" in key or "/unit" in key)
    ours = sum(
        value.numel() for name, value in encoder.named_parameters() if name.startswith(("blocks.", "stages."))
    )
    if theirs < ours or ("opt/" not in str(list(state)[:1]) and theirs != ours):
        raise WeightsError(text(path, f"its blocks hold {theirs:,} numbers, those of the network {ours:,}"))
    found = encoder.state_dict()
    refuse_dead(found, path.name)
    return Fit("", "JAX", found, JAX.input, JAX, {}, [], {})


def text(path: Path, what: str) -> str:
    """Say that an archive does not fit, and what to do."""
    return (
        f"backbone.weights: {path.name} does not fit backbone.name (read as JAX): {what}\n"
        "  remedy: name the architecture these weights were made for in backbone.name and backbone.kwargs"
    )
