"""Run a model over a split, and the two numbers that everybody needs of what it says.

Letters: N images of the split, D features, C classes, B images of a batch.
"""

from collections.abc import Callable, Iterable, Sized
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drtune.backbones.classifier import eval_mode
from drtune.base.errors import DataError, TrainingError
from drtune.base.memory import keep_freed_memory
from drtune.data.batch import Batch, on_device


class Predictions(NamedTuple):
    """What a model says of a split, on the CPU, ordered by row of the split.

    Attributes:
        features: [N, D] float32 encoder output.
        logits: [N, C] float32 class scores.
        labels: [N] int64 true classes.
        index: [N] int64 rows of the split, ascending.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which has no use here


def predict(
    model: nn.Module,
    loader: Iterable[Batch],
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Run `model` in eval mode over every batch; each module's training flag is put back afterwards.

    Args:
        model: a `Classifier`, maybe wrapped, already on `device`.
        loader: the batches of a split, in any order.
        device: where the model runs.
        progress: called with (batches done, batches in all) after each batch; the latter is 0 where the
            loader does not know its length.

    Raises:
        DataError: no batch, or a label for which the model has no class.
        TrainingError: class scores that are not finite.
    """
    keep_freed_memory()
    total = len(loader) if isinstance(loader, Sized) else 0
    parts = []
    with eval_mode(model), torch.inference_mode():
        for done, batch in enumerate(loader, start=1):
            features, logits = model(on_device(batch, device).images)
            parts.append(
                (features.float().cpu(), logits.float().cpu(), batch.labels.cpu(), batch.index.cpu())
            )
            if progress is not None:
                progress(done, total)
    if not parts:
        raise DataError("nothing to evaluate: the split holds no image; expected at least 1")
    # Joined outside inference mode, so that the results are ordinary tensors.
    features, logits, labels, index = (torch.cat(column) for column in zip(*parts, strict=True))
    order = index.argsort(stable=True)
    found = Predictions(features[order], logits[order], labels[order], index[order])
    check(found)
    return found


def check(predictions: Predictions) -> None:
    """Refuse labels without a class and scores that are not finite."""
    rows, classes = predictions.logits.shape
    lowest, highest = predictions.labels.min().item(), predictions.labels.max().item()
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise DataError(
            f"label {wrong} has no class: the model knows {classes} classes, 0 to {classes - 1}; "
            "evaluate on the data set that the model was trained on"
        )
    broken = ~predictions.logits.isfinite().all(1)
    if broken.any():
        first = predictions.index[broken][0].item()
        raise TrainingError(
            f"class scores are not finite for {broken.sum().item()} of {rows} images (first: row {first}); "
            "the weights have diverged: lower train.lr_backbone or train.lr_head, or set train.clip_norm"
        )


def topk_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of samples whose true class is among the `k` highest scores; 1 where k >= C."""
    return in_topk(logits, labels, k).mean().item()


def in_topk(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """1 where the true class is among the `k` highest scores, else 0: [N] float64."""
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(1)
    return (rank < k).double()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean of -log p(true class), in nats."""
    return sample_nll(logits, labels).mean().item()


def sample_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(true class) of each sample, in nats: [N] float64."""
    return F.cross_entropy(logits.double(), labels, reduction="none")
