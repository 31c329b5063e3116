"""The one model every method trains: a timm encoder and a linear head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Prediction(NamedTuple):
    """What a forward pass returns.

    Attributes:
        features: [B, D] pooled encoder output.
        logits: [B, C] class scores of the head.
    """

    features: Tensor
    logits: Tensor


class Classifier(nn.Module):
    """Encoder f and head g of a fine-tuned network.

    Args:
        encoder: module that maps images [B, 3, H, W] to pooled features [B, D].
        feature_dim: D.
        num_classes: C.
    """

    def __init__(self, encoder: nn.Module, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(feature_dim, num_classes)

    @property
    def feature_dim(self) -> int:
        """D, the width of a feature."""
        return self.head.in_features

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return self.head.out_features

    def forward(self, images: Tensor) -> Prediction:
        """Return features [B, D] and logits [B, C] of images [B, 3, H, W]."""
        features = self.encoder(images)
        return Prediction(features, self.head(features))


def unwrapped(model: nn.Module) -> Classifier:
    """Return the classifier inside a wrapper for distributed training or compilation."""
    inner = getattr(model, "module", model)
    inner = getattr(inner, "_orig_mod", inner)
    assert isinstance(inner, Classifier)
    return inner


@torch.no_grad()
def init_head(head: nn.Linear, how: str, generator: torch.Generator) -> None:
    """Set a head's first weights: `normal` is N(0, 0.01²) as in the official DR-Tune code, or `zero`.

    Source: weeknan/DR-Tune model.py:16-17 at ef9a7b1 (weight); the bias there keeps PyTorch's default and is
    zero here, so that the start does not depend on anything but the weight.
    """
    nn.init.zeros_(head.bias)
    if how == "zero":
        nn.init.zeros_(head.weight)
    else:
        nn.init.normal_(head.weight, std=0.01, generator=generator)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode and restore the flag of every module, which may differ among them."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
