"""One look for all pictures: fonts, colours, the shortening of names, and stable files."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drtune.base.files import replacing

DPI = 150  # pixels an inch

# Okabe and Ito 2008, "Color Universal Design"; distinct for the common kinds of colour blindness.
BLUE, SKY, VERMILION, GREEN, ORANGE = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00"
GREY = "#666666"

# Petroff 2021, arXiv:2107.02270, ten colours; beyond ten classes the marker changes as well.
CLASS_COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*")

# DejaVu comes with matplotlib; the others draw scripts that it lacks, where they are installed.
WIDE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Droid Sans Fallback",
)

LOOK: Mapping[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.titlesize": 12,
    "font.family": ["DejaVu Sans", *sorted(set(WIDE_FONTS) & set(font_manager.get_font_names()))],
    "font.size": 10,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "text.parse_math": False,  # a class may be called "$x$"
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}

styled = style.context(LOOK, after_reset=True)
"""Decorator: draw with this look alone, whatever matplotlibrc or the caller has set."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, whose parts make room for each other's labels."""
    return Figure(figsize=(width, height), layout="constrained")


@styled
def save(figure: Figure, path: Path) -> None:
    """Write a PNG whose bytes follow from the figure alone; an existing file is replaced at once."""
    with warnings.catch_warnings(), replacing(path) as fresh:
        # A letter that no installed font has is drawn as a box: worth no more than that.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(fresh, format="png", dpi=DPI, metadata={"Software": None})


def shorten(name: str, limit: int = 24) -> str:
    """Put a name on one line of at most `limit` letters, with an ellipsis for its middle if need be."""
    line = " ".join(name.split())
    if len(line) <= limit:
        return line
    tail = (limit - 1) // 2
    return f"{line[: limit - 1 - tail]}…{line[-tail:]}"


def class_look(label: int) -> tuple[str, str]:
    """Colour and marker of a class; the pairs repeat after a hundred classes."""
    marker = CLASS_MARKERS[label // len(CLASS_COLOURS) % len(CLASS_MARKERS)]
    return CLASS_COLOURS[label % len(CLASS_COLOURS)], marker


def message(text: str) -> Figure:
    """A small figure that only says something."""
    figure = new_figure(6, 2)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, wrap=True)
    return figure


def without_ticks(axes: Axes) -> None:
    """Take away scale and grid where positions have no unit."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
