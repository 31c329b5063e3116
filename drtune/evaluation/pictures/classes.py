"""What is taken for what, and how well each class is recognised. Letters: C classes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from drtune.evaluation.pictures.style import GREY, SKY, VERMILION, new_figure, shorten, styled

NUMBERED_CLASSES = 20  # up to here, the cells of a confusion matrix show their counts
NAMED_CLASSES = 50  # up to here, each row of a confusion matrix is named; beyond, some are
ALL_BARS, WORST_BARS, BEST_BARS = 60, 30, 10


@styled
def confusion_matrix(matrix: Tensor, classes: Sequence[str], *, split: str) -> Figure:
    """Counts of true class (row) against predicted class (column), coloured by share of the row.

    Args:
        matrix: [C, C] int64 counts. The row of a class without images is left blank.
        classes: C names.
        split: name of the split, for the title.
    """
    counts = matrix.numpy()
    support = counts.sum(1, keepdims=True)
    shares = np.ma.masked_invalid(np.where(support > 0, counts / np.maximum(support, 1), np.nan))
    size = float(np.clip(2.6 + 0.42 * len(classes), 4.2, 11))
    figure = new_figure(size + 1, size)
    axes = figure.add_subplot()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axes.set_facecolor("#f2f2f2")
    axes.grid(False)
    name_cells(axes, classes, cell_width=(size - 2.2) / len(classes))
    if len(classes) <= NUMBERED_CLASSES:
        number_cells(axes, counts, shares)
    figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, label="share of the true class (%)")
    right = counts.trace() / max(counts.sum(), 1)
    figure.suptitle(
        f"Confusion matrix, {split} split, n = {counts.sum()}\n{counts.trace()} right ({right:.1%})"
    )
    return figure


def name_cells(axes: Axes, classes: Sequence[str], cell_width: float) -> None:
    """Write class names along both axes, only every k-th where not all fit; cells are so many inches wide."""
    step = 1 if len(classes) <= NAMED_CLASSES else -(-len(classes) // 40)
    ticks = range(0, len(classes), step)
    names = [shorten(classes[tick], 20) for tick in ticks]
    few = len(classes) <= NUMBERED_CLASSES
    upright = few and 0.09 * max(len(name) for name in names) < cell_width
    small = 9 if few else 7
    axes.set_xticks(ticks, names, fontsize=small, rotation=0 if upright else 90)
    axes.set_yticks(ticks, names, fontsize=small)
    note = "" if step == 1 else f" (1 in {step} is named)"
    axes.set_xlabel(f"predicted class{note}")
    axes.set_ylabel(f"true class{note}")


def number_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    """Write each count into its cell, light on dark cells; zeros are pale so that mistakes stand out."""
    size = 9 if len(counts) <= 12 else 7
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.55 else "black" if counts[row, column] else "#bbbbbb"
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, color=colour
        )


@styled
def per_class_bars(accuracy: Tensor, support: Tensor, classes: Sequence[str], *, split: str) -> Figure:
    """Accuracy of each class as horizontal bars, the worst first.

    Beyond 60 classes only the worst 30 and the best 10 are drawn. Classes without images are left out, with
    a note that says how many.

    Args:
        accuracy: [C] share of each class's images that is recognised, NaN where it has none.
        support: [C] number of images.
        classes: C names.
        split: name of the split, for the title.
    """
    present = [c for c in range(len(classes)) if support[c] > 0]
    order = sorted(present, key=lambda c: (accuracy[c].item(), c))
    worst, best = order, order[:0]
    if len(order) > ALL_BARS:
        worst, best = order[:WORST_BARS], order[-BEST_BARS:]
    shown = [*worst, *best]
    places = np.arange(len(shown)) + np.where(np.arange(len(shown)) < len(worst), 0.0, 1.0)
    figure = new_figure(7.5, float(np.clip(1.5 + 0.25 * len(shown), 3, 12)))
    axes = figure.add_subplot()
    values = np.array([100 * accuracy[c].item() for c in shown])
    mean = 100 * accuracy[present].double().mean().item()
    axes.barh(places, values, height=0.72, color=SKY)
    axes.axvline(mean, color=VERMILION, linestyle="--", label=f"mean over classes: {mean:.1f}%")
    for place, value in zip(places, values, strict=True):
        axes.text(108, place, f"{value:.1f}", ha="right", va="center", fontsize=8)
    names = [f"{shorten(classes[c])} ({int(support[c])})" for c in shown]
    axes.set_yticks(places, names, fontsize=9 if len(shown) <= 30 else 8)
    if best:
        note = f"… {len(order) - len(shown)} classes between, not drawn …"
        axes.text(1, len(worst), note, va="center", fontsize=8, color=GREY)
    axes.set(
        xlim=(0, 109), xticks=range(0, 101, 20), ylim=(places[-1] + 0.7, -0.7), xlabel="images recognised (%)"
    )
    axes.set_ylabel("class (number of images)")
    axes.grid(False, axis="y")
    figure.legend(loc="outside lower right")
    absent = len(classes) - len(present)
    left_out = f"\n{absent} of {len(classes)} classes have no image and are left out" if absent else ""
    figure.suptitle(f"Accuracy of each class, {split} split, n = {int(support.sum())}{left_out}")
    return figure
