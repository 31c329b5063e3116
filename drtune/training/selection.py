"""Which epoch of a training is kept: `train.monitor`."""

from collections.abc import Mapping, Sequence
from typing import Any

from drtune.training.settings import Monitor

Record = Mapping[str, Any]


def kept_epoch(history: Sequence[Record], monitor: Monitor) -> Record:
    """The record of the epoch that is kept of those so far.

    One more epoch is either kept itself or changes nothing: a copy of one epoch's weights is enough.

    Args:
        history: at least one record with `epoch`, `val_accuracy`, `val_accuracy_se` and `val_loss`, in the
            order of time.
        monitor: `accuracy` on validation, then the lower loss; `loss`, then the higher accuracy; of equals
            the first. `accuracy_1se`, the latest epoch whose accuracy is at most one standard error below
            the best: the rule of Breiman, Friedman, Olshen, Stone, "Classification and Regression Trees"
            (1984), with the longest training in place of the smallest tree. `last`, whatever its scores.
    """
    if monitor == "last":
        return history[-1]
    if monitor == "loss":
        return max(history, key=lambda record: (-record["val_loss"], record["val_accuracy"]))
    best = max(history, key=lambda record: (record["val_accuracy"], -record["val_loss"]))
    if monitor == "accuracy":
        return best
    lowest = best["val_accuracy"] - best["val_accuracy_se"]
    return next(record for record in reversed(history) if record["val_accuracy"] >= lowest)
