"""A contact sheet of images with their true and predicted classes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from drtune.evaluation.pictures.style import DPI, GREEN, GREY, VERMILION, message, shorten, styled

COLUMNS, ROWS = 6, 6
TILE, CAPTION, MARGIN, HEAD = 1.6, 0.5, 0.15, 0.6  # inches


@styled
def worst_mistakes(
    images: Sequence[Image.Image | np.ndarray],
    truths: Sequence[str],
    predicted: Sequence[str],
    confidences: Sequence[float],
    *,
    mistakes: int,
    n: int,
    split: str,
) -> Figure:
    """Up to 36 wrongly classified images, each over its true and its predicted class.

    Args:
        images: pictures as they were decoded, RGB, or arrays [H, W] or [H, W, 3] of uint8, the worst first.
        truths: their true classes.
        predicted: the classes predicted for them.
        confidences: the probabilities of those predictions.
        mistakes: wrongly classified images in the split.
        n: images in the split.
        split: name of the split, for the title.
    """
    if not images:
        return message(f"No mistakes to show: {mistakes} of {n} images of the {split} split are wrong.")
    shown = min(len(images), COLUMNS * ROWS)
    tiles = [fitted(image, round(TILE * DPI)) for image in images[:shown]]
    tile_height = max(len(tile) for tile in tiles) / DPI
    columns = min(shown, COLUMNS)
    rows = -(-shown // columns)
    width = max(MARGIN + columns * (TILE + MARGIN), 5.0)
    height = HEAD + rows * (tile_height + CAPTION + MARGIN)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    left = (width - columns * (TILE + MARGIN) + MARGIN) / 2
    for position, tile in enumerate(tiles):
        row, column = divmod(position, columns)
        x = left + column * (TILE + MARGIN)
        y = height - HEAD - tile_height - row * (tile_height + CAPTION + MARGIN)
        draw_tile(axes, tile, x, y)
        captions = (
            (GREEN, f"true: {shorten(truths[position], 17)}"),
            (VERMILION, f"pred: {shorten(predicted[position], 12)} ({confidences[position]:.0%})"),
        )
        for line, (colour, text) in enumerate(captions):
            axes.text(x, y - 0.06 - 0.19 * line, text, color=colour, fontsize=8, va="top")
    axes.text(width / 2, height - 0.15, title(shown, mistakes, n, split), fontsize=12, ha="center", va="top")
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")
    return figure


def draw_tile(axes: Axes, pixels: np.ndarray, x: float, y: float) -> None:
    """Draw an image with a thin frame, its left lower corner at (x, y) inches."""
    high, wide = (length / DPI for length in pixels.shape[:2])
    axes.imshow(pixels, extent=(x, x + wide, y, y + high), interpolation="nearest")
    axes.add_patch(Rectangle((x, y), wide, high, fill=False, edgecolor=GREY, linewidth=0.6))


def title(shown: int, mistakes: int, n: int, split: str) -> str:
    """Say how many of the mistakes are shown."""
    which = f"All {mistakes} mistakes" if shown == mistakes else f"The worst {shown} of {mistakes} mistakes"
    return f"{'The only mistake' if mistakes == 1 else which}, {split} split, n = {n}"


def fitted(image: Image.Image | np.ndarray, side: int) -> np.ndarray:
    """Scale an image to fit a square of `side` pixels: [H, W, 3] uint8.

    Enlarging keeps the pixels visible as squares; shrinking smooths.
    """
    picture = (image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("RGB")
    scale = side / max(picture.size)
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return np.asarray(picture.resize(size, how))
