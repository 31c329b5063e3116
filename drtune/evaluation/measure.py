"""Run a model over a split and measure its predictions.

Letters: N images of the split, D features, C classes, B images of a batch.
"""

from collections.abc import Callable

import torch
from torch import nn

from drtune.backbones.predictions import Predictions, predict
from drtune.base.device import pick_device
from drtune.base.runtime import RuntimeSettings
from drtune.data.loaders import eval_loader
from drtune.data.packed import PackedSplit
from drtune.data.transforms import InputSpec, eval_transform
from drtune.evaluation import metrics
from drtune.evaluation.settings import EvaluateSettings


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


def measure(
    model: nn.Module,
    split: PackedSplit,
    spec: InputSpec,
    settings: EvaluateSettings,
    runtime: RuntimeSettings,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Predictions, dict[str, float]]:
    """Predict every image of a split as evaluation sees it, and summarize.

    Args:
        model: a `Classifier`; moved to the device that `runtime` names.
        split: packed images.
        spec: the input the model expects.
        settings: the `evaluate` section.
        runtime: device and workers.
        progress: called with (images done, images in all), first with (0, images in all).
    """

    def in_images(batches: int, _: int) -> None:
        if progress is not None:
            progress(min(batches * settings.batch_size, len(split)), len(split))

    device = pick_device(runtime.device)
    loader = eval_loader(
        split, eval_transform(spec), batch_size=settings.batch_size, workers=runtime.num_workers
    )
    in_images(0, 0)
    found = predict(model.to(device), loader, device, in_images)
    bins, seed = settings.calibration_bins, settings.seed
    return found, summarize(found, bootstrap=settings.bootstrap, bins=bins, seed=seed)
