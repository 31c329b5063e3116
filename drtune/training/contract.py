"""What a fine-tuning method is: the page to read first.

The loop (`drtune/training/loop.py`) owns data, optimiser, precision and checkpoints. A method owns its
objective and its state. It is one file with one `Settings` class and one class that follows `Method`,
listed in `METHODS`; methods never import one another.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from drtune.banks.bank import FeatureBank
from drtune.base.settings import Settings
from drtune.data.batch import Batch
from drtune.training.settings import TrainSettings

LossTerms = dict[str, Tensor]
"""Named scalars; their sum is the objective, and each is logged under its name."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own optimiser and schedule.

    Attributes:
        name: as it appears in logs.
        epochs: length.
        trains: `all` parameters, or the `head` alone with the encoder frozen in eval mode.
    """

    name: str
    epochs: int
    trains: Literal["all", "head"] = "all"


class Method(Protocol):
    """One fine-tuning method; `model` below is a `Classifier`, maybe wrapped (see `unwrapped`).

    A field of `Settings` that `train` has too (`weight_decay`, say) replaces it for this method: what its
    recipe cannot do without. Such a field may be None, which leaves `train` as it is.
    """

    Settings: ClassVar[type[Settings]]

    def __init__(self, settings: Any, train: TrainSettings) -> None: ...

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Called once, on the training device, before the first step and before any checkpoint is read.

        Args:
            model: at its start; where the method may keep the pretrained weights or features from.
            bank: pretrained features of the training split; None where none was extracted.
            batches: those of the first epoch, on the device; each iteration is a pass over the images.

        Raises:
            BankError: the method needs a bank and there is none.
        """
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is trained beside the model (a projection head, say), at `train.lr_head`."""

    def phases(self, epochs: int) -> Sequence[Phase]:
        """Split `train.epochs` into phases; most methods have one."""

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The paper's equation: named terms whose sum is minimised."""

    def after_step(self, batch: Batch) -> None:
        """Called after each optimiser step: enqueue features, refresh statistics."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that an interrupted training needs to go on exactly."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""


def trains_encoder(method: Method, epochs: int) -> bool:
    """Whether any phase of a method changes the encoder."""
    return any(phase.trains == "all" for phase in method.phases(epochs))


def load_method(name: str) -> type[Method]:
    """The class of a method: the one that `drtune/methods/NAME/method.py` defines."""
    module = import_module(f"drtune.methods.{name}.method")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Stateless)]
    return next(kind for kind in kinds if kind.__module__ == module.__name__)  # type: ignore[return-value]


class Stateless:
    """Empty hooks for methods that only have an objective."""

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Nothing to prepare."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """The model's alone."""
        return []

    def phases(self, epochs: int) -> Sequence[Phase]:
        """One phase over all parameters."""
        return [Phase("train", epochs)]

    def after_step(self, batch: Batch) -> None:
        """Nothing to update."""

    def state_dict(self) -> dict[str, Tensor]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """No state."""
