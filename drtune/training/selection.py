"""Which epoch of a training is kept: `train.monitor`."""

from collections.abc import Mapping
from typing import Any, Literal

Monitor = Literal["accuracy", "loss", "last"]


def rank(record: Mapping[str, Any], monitor: Monitor) -> tuple[float, ...]:
    """What epochs are compared by, from left to right, larger is better; the first of equals is kept.

    Args:
        record: of the history, with `epoch`, `val_accuracy` and `val_loss`.
        monitor: `accuracy` on validation, then the lower loss; `loss`, then the higher accuracy; or `last`.
    """
    accuracy, loss = record["val_accuracy"], record["val_loss"]
    by = {"accuracy": (accuracy, -loss), "loss": (-loss, accuracy), "last": (record["epoch"],)}
    return by[monitor]
