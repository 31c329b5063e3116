"""What a fine-tuning method is: the page to read first.

The loop (`drtune/training/loop.py`) owns data, optimiser, precision and checkpoints. A method owns its
objective and its state. It is a folder `drtune/methods/NAME` whose method.py holds one class that extends
`Method`; methods never import one another.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from drtune.banks.bank import FeatureBank
from drtune.base.settings import Settings
from drtune.data.batch import Batch
from drtune.training.settings import TrainSettings

Trained = Literal["all", "head"]


@dataclass(frozen=True)
class Loss:
    """A method's objective on one batch: the sum of weight x term.

    Attributes:
        terms: name -> scalar without its weight, so that runs of different weights compare; each is logged.
        weights: name -> weight; 1 where a name is absent. Logged beside the terms.
        kept: what `after_step` gets.
    """

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)
    kept: Any = None

    @property
    def weighted(self) -> dict[str, Tensor]:
        """What each term adds to the sum."""
        return {name: self.weights.get(name, 1.0) * term for name, term in self.terms.items()}

    @property
    def total(self) -> Tensor:
        """What is minimised; a scalar."""
        return torch.stack(list(self.weighted.values())).sum()


class Method(nn.Module):
    """One fine-tuning method; as it stands, cross entropy.

    A parameter with `requires_grad` is trained beside the model, at `train.lr_head`. Parameters and buffers
    are in checkpoints; what `prepare` makes anew does not belong there: a buffer with `persistent=False`, or
    a `Frozen` copy.

    Args:
        settings: `methods.NAME` in params.yaml.
        train: `train`, with what the method replaces of it.

    Attributes:
        trains: `all` parameters of the model, or the `head` alone with the encoder frozen in eval mode.
        step: optimiser steps done in the whole training; the loop sets it before each.
    """

    trains: ClassVar[Trained] = "all"
    settings: Settings
    step: int = 0

    def __init__(self, settings: Settings, train: TrainSettings) -> None:
        super().__init__()
        self.settings = settings
        self.seed, self.label_smoothing = train.seed, train.label_smoothing

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Called once, on the training device, before the first step and before any checkpoint is read.

        Args:
            model: a `Classifier` at its start, maybe wrapped (see `unwrapped`).
            bank: pretrained features of the training split; None where none was extracted.
            batches: those of the first epoch, on the device; each iteration is a pass over the images.

        Raises:
            BankError: the method needs a bank and there is none.
        """

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The paper's equation on a batch."""
        return Loss({"cross_entropy": self.cross_entropy(model(batch.images).logits, batch.labels)})

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the rows of logits [B, C]; targets are labels [B] or shares [B, C]."""
        return cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def after_step(self, batch: Batch, kept: Any) -> None:
        """Called after each optimiser step with what `loss` kept: enqueue features, refresh statistics."""


class Frozen:
    """A copy of a module in eval mode and without gradients, of which no checkpoint knows.

    Being no module itself, it hides the copy from the module that it is set on.

    Args:
        module: what is copied.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Any:
        """What the copy says of its inputs."""
        return self.module(*inputs)


def load_method(name: str) -> type[Method]:
    """The class of a method: the one that `drtune/methods/NAME/method.py` defines."""
    module = import_module(f"drtune.methods.{name}.method")
    (found,) = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == module.__name__
    ]
    return found
