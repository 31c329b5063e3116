"""Projection heads: where contrastive losses compare features instead of on the features themselves."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def projection_head(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU in between.

    Weights and biases are U(-1/sqrt(n), 1/sqrt(n)) for n inputs, as `nn.Linear` draws them, but from
    `generator` alone: PyTorch's global generator is neither read nor moved.

    Args:
        widths: of the input, the hidden layers and the output; two make one linear layer.
        generator: on the CPU.

    Returns:
        A module on the CPU that maps [B, widths[0]] to [B, widths[-1]].
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
        layers += [nn.ReLU(), layer] if layers else [layer]
    return nn.Sequential(*layers)
