"""All pictures of an evaluation in one folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from drtune.backbones.predictions import Predictions
from drtune.base.files import replacing
from drtune.evaluation import metrics
from drtune.evaluation.pictures.classes import confusion_matrix, per_class_bars
from drtune.evaluation.pictures.curves import learning_curves, reliability_diagram
from drtune.evaluation.pictures.features import feature_map
from drtune.evaluation.pictures.images import worst_mistakes
from drtune.evaluation.pictures.style import save
from drtune.evaluation.settings import EvaluateSettings


def draw_reports(
    folder: Path,
    predictions: Predictions,
    classes: Sequence[str],
    settings: EvaluateSettings,
    *,
    split: str,
    pretrained: Tensor,
    image: Callable[[int], Image.Image],
    history: Sequence[Mapping[str, Any]],
    selected_epoch: int | None,
    further: Mapping[str, Figure],
) -> None:
    """Draw confusion_matrix, per_class, reliability, learning_curves, feature_map and worst_mistakes (.png).

    The folder appears, or is replaced, as a whole once all are drawn.

    Args:
        folder: where the pictures go.
        predictions: of the N images of a split.
        classes: C names.
        settings: bins of the reliability diagram, and how many of the worst mistakes to show (36 at most).
        split: name of the split, for the titles.
        pretrained: [N, D] features of the same images, in the same order, before training.
        image: returns the image in a row of the split.
        history: one record an epoch, see `learning_curves`.
        selected_epoch: the epoch whose weights were kept.
        further: more pictures for the folder, by file name without its ending.
    """
    logits, labels, bins = predictions.logits, predictions.labels, settings.calibration_bins
    matrix = metrics.confusion_matrix(logits, labels)
    scores = metrics.class_scores(matrix)
    ece = metrics.expected_calibration_error(logits, labels, bins)
    with replacing(folder) as fresh:
        fresh.mkdir()
        for name, figure in {
            "confusion_matrix": confusion_matrix(matrix, classes, split=split),
            "per_class": per_class_bars(scores.recall, scores.support, classes, split=split),
            "reliability": reliability_diagram(
                metrics.reliability_bins(logits, labels, bins), ece, split=split
            ),
            "learning_curves": learning_curves(history, selected_epoch),
            "feature_map": feature_map(pretrained, predictions.features, labels, classes, split=split),
            "worst_mistakes": mistakes_sheet(predictions, classes, settings.worst, image, split),
            **further,
        }.items():
            save(figure, fresh / f"{name}.png")


def mistakes_sheet(
    predictions: Predictions,
    classes: Sequence[str],
    worst: int,
    image: Callable[[int], Image.Image],
    split: str,
) -> Figure:
    """The wrong predictions of the highest probability; equal ones in the order of their rows."""
    confidence, predicted = predictions.logits.double().softmax(1).amax(1), predictions.logits.argmax(1)
    wrong = (predicted != predictions.labels).nonzero().flatten()
    shown = wrong[confidence[wrong].argsort(descending=True, stable=True)][: min(worst, 36)]
    return worst_mistakes(
        [image(row) for row in predictions.index[shown].tolist()],
        [classes[label] for label in predictions.labels[shown].tolist()],
        [classes[label] for label in predicted[shown].tolist()],
        confidence[shown].tolist(),
        mistakes=len(wrong),
        n=len(predicted),
        split=split,
    )
