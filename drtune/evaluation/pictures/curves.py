"""Confidence against accuracy, and the course of a training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from drtune.evaluation.metrics import ReliabilityBins
from drtune.evaluation.pictures.style import (
    BLUE,
    CLASS_COLOURS,
    ORANGE,
    SKY,
    VERMILION,
    message,
    new_figure,
    styled,
)

MARKED_EPOCHS = 30  # up to here, each epoch is a dot on the line

Line = tuple[str, str, str]
"""(key of the history, label in the legend, colour)"""


@styled
def reliability_diagram(bins: ReliabilityBins, ece: float, *, split: str) -> Figure:
    """Accuracy of each bin of confidence with its gap to the confidence, above a histogram of confidence.

    Args:
        bins: M bins of equal width.
        ece: expected calibration error, a share of 1.
        split: name of the split, for the title.
    """
    confidence, accuracy, counts = (column.double().numpy() for column in bins)
    filled, total = counts > 0, counts.sum()
    width = 1 / len(counts)
    middle = (np.arange(len(counts)) + 0.5) * width
    figure = new_figure(6, 6.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bars = {"width": 0.94 * width, "linewidth": 0}
    top.bar(middle[filled], accuracy[filled], color=SKY, label="accuracy", **bars)
    top.bar(
        middle[filled],
        (confidence - accuracy)[filled],
        bottom=accuracy[filled],
        label="gap to mean confidence",
        **{**bars, "linewidth": 1},
        color="#D55E0033",
        edgecolor=VERMILION,
        hatch="////",
    )
    top.plot((0, 1), (0, 1), color="black", linestyle="--", label="perfectly calibrated")
    top.set(ylim=(0, 1.02), ylabel="accuracy (share of 1)")
    top.legend(loc="upper left")
    bottom.bar(middle, 100 * counts / total, color=SKY, **bars)
    means = {
        "mean confidence": (float((confidence * counts)[filled].sum() / total), VERMILION, "-"),
        "accuracy": (float((accuracy * counts)[filled].sum() / total), "black", ":"),
    }
    for name, (value, colour, dashes) in means.items():
        bottom.axvline(value, ymax=0.75, color=colour, linestyle=dashes, label=f"{name}: {value:.3f}")
    bottom.legend(loc="upper left", ncols=2)
    bottom.set(ylim=(0, 140 * counts.max() / total))  # leaves room for the legend
    bottom.set(xlim=(0, 1), xlabel="confidence (probability of the predicted class)", ylabel="images (%)")
    figure.suptitle(f"Reliability, {split} split, n = {int(total)}\nexpected calibration error {ece:.3f}")
    return figure


@styled
def learning_curves(history: Sequence[Mapping[str, Any]], selected_epoch: int | None) -> Figure:
    """Losses, terms of the objective, accuracies and learning rates of each epoch.

    Args:
        history: one record an epoch with `epoch` (0 is the start, before training) and any of
            `train_loss`, `loss/<term>` and `weight/<term>` (drawn as their product; 1 where there is no
            weight), `train_accuracy`, `val_accuracy`, `val_accuracy_se`, `val_loss`, `lr_backbone`,
            `lr_head`. What a record lacks leaves a gap; what all lack is left out.
        selected_epoch: the `epoch` whose weights were kept, marked in each panel; None marks none.
    """
    if not history:
        return message("No epoch was trained: there are no learning curves.")
    terms = list(dict.fromkeys(key for record in history for key in record if key.startswith("loss/")))
    panels: list[tuple[str, str, list[Line]]] = [
        ("Loss", "nats", [("train_loss", "train", BLUE), ("val_loss", "val", VERMILION)]),
        ("Accuracy", "images (%)", [("train_accuracy", "train", BLUE), ("val_accuracy", "val", VERMILION)]),
        ("Learning rate", "step size", [("lr_backbone", "backbone", BLUE), ("lr_head", "head", ORANGE)]),
    ]
    if len(terms) > 1:
        colours = [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(len(terms))]
        lines = [(key, key.removeprefix("loss/"), colour) for key, colour in zip(terms, colours, strict=True)]
        panels.insert(1, ("Terms of the training loss", "nats", lines))
    rows, columns = (2, 2) if len(panels) == 4 else (1, 3)
    figure = new_figure(10 if rows == 2 else 12, 3.4 * rows + 0.4)
    for axes, (title, unit, lines) in zip(figure.subplots(rows, columns).flat, panels, strict=True):
        axes.set(title=title, ylabel=unit, xlabel="epoch")
        draw_lines(axes, history, lines, 100.0 if title == "Accuracy" else 1.0)
        mark_epochs(axes, history, selected_epoch)
        if title == "Learning rate":
            scale_rates(axes, history)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    trained = sum(record["epoch"] > 0 for record in history)
    figure.suptitle(f"Learning curves, {trained} epoch{'' if trained == 1 else 's'}")
    return figure


def draw_lines(axes: Axes, history: Sequence[Mapping[str, Any]], lines: list[Line], scale: float) -> None:
    """Draw each key that some record holds, times `scale`, and its standard error, `<key>_se`, as a band."""
    epochs = [record["epoch"] for record in history]
    marker = "o" if len(history) <= MARKED_EPOCHS else ""
    for key, label, colour in lines:
        values = [value_of(record, key) for record in history]
        if any(value is not None for value in values):
            heights = [float("nan") if value is None else scale * value for value in values]
            axes.plot(epochs, heights, color=colour, marker=marker, label=label)
            errors = [scale * (record.get(f"{key}_se") or 0.0) for record in history]
            if any(errors):
                low, high = ([h + sign * e for h, e in zip(heights, errors, strict=True)] for sign in (-1, 1))
                label = f"{label} ± one standard error"
                axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0, label=label)


def value_of(record: Mapping[str, Any], key: str) -> float | None:
    """What is drawn of a record: a term of the loss with its weight, all else as it is."""
    value, weight = record.get(key), record.get(f"weight/{key.removeprefix('loss/')}")
    return value if value is None or weight is None else value * weight


def mark_epochs(axes: Axes, history: Sequence[Mapping[str, Any]], selected_epoch: int | None) -> None:
    """Mark the epoch that was kept, and write whole epochs below."""
    if selected_epoch is not None:
        axes.axvline(selected_epoch, color="black", linestyle=":", label=f"kept: epoch {selected_epoch}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def scale_rates(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """Use a logarithmic scale, of at most four decades, where learning rates differ tenfold."""
    rates = [record.get(key) or 0.0 for record in history for key in ("lr_backbone", "lr_head")]
    low, high = min((rate for rate in rates if rate > 0), default=0.0), max(rates)
    if high >= 10 * low > 0:
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_ylim(max(low / 1.5, high / 1e4), high * 2)
