"""Run a model over a split and measure its predictions.

Letters: N images of the split, D features, C classes, B images of a batch.
"""

import math
from collections.abc import Callable, Iterable, Sized
from typing import NamedTuple

import torch
from torch import Tensor, nn

from drtune import metrics
from drtune.backbones.classifier import eval_mode
from drtune.config import EvaluateSettings
from drtune.data.batch import Batch
from drtune.data.loaders import eval_loader
from drtune.data.packed import PackedSplit
from drtune.data.transforms import InputSpec, eval_transform
from drtune.errors import DataError, TrainingError
from drtune.memory import keep_freed_memory


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
            features, logits = model(batch.images.to(device, non_blocking=True))
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


def summarize(predictions: Predictions, *, bootstrap: int, bins: int, seed: int) -> dict[str, float]:
    """Every headline number with its 95 % interval, flat, rounded to 6 decimals.

    Args:
        predictions: of a split.
        bootstrap: number of resamples behind the intervals.
        bins: number of bins of the calibration error.
        seed: of the resamples.

    Returns:
        `n`, then for each name of `metrics.HEADLINE`: the name, `<name>_low` and `<name>_high`.
    """
    logits, labels = predictions.logits, predictions.labels
    scores = metrics.sample_scores(logits, labels, bins)
    values = metrics.headline(scores, torch.ones(len(labels), 1, dtype=torch.float64))
    intervals = metrics.bootstrap_intervals(logits, labels, bins=bins, resamples=bootstrap, seed=seed)
    summary: dict[str, float] = {"n": len(labels)}
    for name, (low, high) in intervals.items():
        summary[name] = round(values[name].item(), 6)
        summary[f"{name}_low"] = round(low, 6)
        summary[f"{name}_high"] = round(high, 6)
    return summary


def validation_scores(predictions: Predictions) -> dict[str, float]:
    """What a training loop needs after each epoch: accuracy p, its standard error, mean cross entropy.

    Returns:
        `accuracy`; `accuracy_se`, sqrt(p (1 - p) / N); `loss`, in nats.
    """
    accuracy = metrics.topk_accuracy(predictions.logits, predictions.labels, 1)
    return {
        "accuracy": accuracy,
        "accuracy_se": math.sqrt(accuracy * (1 - accuracy) / len(predictions.labels)),
        "loss": metrics.negative_log_likelihood(predictions.logits, predictions.labels),
    }


def measure(
    model: nn.Module,
    split: PackedSplit,
    spec: InputSpec,
    settings: EvaluateSettings,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Predictions, dict[str, float]]:
    """Predict every image of a split as evaluation sees it, and summarize.

    Args:
        model: a `Classifier`; moved to the device that `settings` names.
        split: packed images.
        spec: the input the model expects.
        settings: the `evaluate` section.
        progress: called with (images done, images in all), first with (0, images in all).
    """

    def in_images(batches: int, _: int) -> None:
        if progress is not None:
            progress(min(batches * settings.batch_size, len(split)), len(split))

    device = pick_device(settings.device)
    loader = eval_loader(
        split, eval_transform(spec), batch_size=settings.batch_size, workers=settings.workers
    )
    in_images(0, 0)
    found = predict(model.to(device), loader, device, in_images)
    bins, seed = settings.calibration_bins, settings.seed
    return found, summarize(found, bootstrap=settings.bootstrap, bins=bins, seed=seed)


def pick_device(choice: str) -> torch.device:
    """The device for `auto` (a GPU where there is one) or `cpu`."""
    return torch.device("cuda" if choice == "auto" and torch.cuda.is_available() else "cpu")
