"""Axes for the values of settings: numbers, logarithms and categories, with labels that stay readable."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator

from drtune.evaluation.pictures.style import shorten

WIDE = 1000.0  # positive values that differ by this factor get a logarithmic axis
LETTER = 0.08  # inches, on average

Value = float | int | str | bool


@dataclass(frozen=True)
class Scale:
    """How the values of a setting lie on an axis: `labels` of categories or, without any, as numbers."""

    labels: tuple[str, ...]
    log: bool

    def place(self, value: Value) -> float:
        """Coordinate of a value: a category's index, or the number itself."""
        return self.labels.index(written(value)) if self.labels else float(value)


def scale_of(values: Sequence[Value], log: bool) -> Scale:
    """Numbers alone have an axis of numbers; with text or true/false among them all are categories.

    Args:
        values: at least one.
        log: whether a logarithmic axis is wanted; it is given where all values are positive numbers.
    """
    if not any(isinstance(value, bool | str) for value in values):
        return Scale((), log and all(float(value) > 0 for value in values))
    order = sorted(values, key=lambda value: (isinstance(value, str), value))
    return Scale(tuple(dict.fromkeys(map(written, order))), False)


def written(value: Value) -> str:
    """A value as a settings file has it: whole numbers below a million in full, others with four digits."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and abs(value) < 1e6 else f"{value:.4g}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The fewest last parts of each dotted name that no other name ends in, on one line if still distinct."""
    short = {}
    for name in names:
        parts = name.split(".")
        tails = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
        others = [f".{other}" for other in names if other != name]
        free = [tail for tail in tails if not any(other.endswith(f".{tail}") for other in others)]
        short[name] = free[0] if free else name
    cut = {name: shorten(text) for name, text in short.items()}
    return cut if len(set(cut.values())) == len(cut) else short


def fractions(places: Sequence[float], log: bool | None = None) -> list[float]:
    """How far each lies from the lowest (0) to the highest (1); 0.5 where all are equal.

    `log` measures the way in decades; None does so where they are `wide`.
    """
    spots = [math.log10(p) for p in places] if (wide(places) if log is None else log) else places
    low, high = min(spots), max(spots)
    return [(spot - low) / (high - low) if high > low else 0.5 for spot in spots]


def whole_numbers() -> MaxNLocator:
    """Ticks at whole numbers alone."""
    return MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


def wide(values: Sequence[float]) -> bool:
    """Whether positive values span so much that a linear axis would hide most of them."""
    return 0 < WIDE * min(values) <= max(values)


def stretch(axis: Axis, values: Sequence[float]) -> None:
    """Make an axis logarithmic where its values are `wide`."""
    if wide(values):
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
        mark_decades(axis, min(values), max(values))


def mark_decades(axis: Axis, low: float, high: float) -> None:
    """Write two to five round numbers on a logarithmic axis, or its two ends where none are between."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) > 2:
            break
    else:
        ticks = [low, high]
    ticks = ticks[:: -(-len(ticks) // 5)]
    axis.set_ticks(ticks, labels=[written(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


def lay_along(axes: Axes, scale: Scale, places: Sequence[float], inches: float) -> None:
    """Give the horizontal axis this scale; `places` are the coordinates on it."""
    low, high = min(places), max(places)
    if scale.log:
        axes.set_xscale("log")
    if scale.labels:
        names = [shorten(label, 16) for label in scale.labels]
        axes.set_xticks(range(len(names)), names, **tilt(names, inches / len(names)))
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif low == high:
        axes.set_xticks([low], [written(low)])
        axes.set_xticks([], minor=True)
    elif scale.log:
        mark_decades(axes.xaxis, low, high)
    else:
        axes.xaxis.set_major_locator(
            MaxNLocator(5, integer=all(place % 1 == 0 for place in places), min_n_ticks=1)
        )


def lay_upright(axes: Axes, column: int, values: Sequence[Value], log: bool) -> list[float]:
    """Draw one of several upright axes from 0 to 1, with its ends or categories, and return the heights."""
    scale = scale_of(values, log)
    places = [scale.place(value) for value in values]
    heights = fractions(places, scale.log)
    axes.plot((column, column), (0, 1), color="#888888", linewidth=1, zorder=1)
    ends = {height: written(value) for height, value in zip(heights, values, strict=True)}
    for height in sorted(ends) if scale.labels else {min(heights), max(heights)}:
        side = {0.0: (0, -5), 1.0: (0, 5)}.get(height, (6, 0))
        axes.annotate(
            shorten(ends[height], 16),
            (column, height),
            xytext=side,
            textcoords="offset points",
            ha="left" if side[0] else "center",
            va={-5: "top", 5: "bottom", 0: "center"}[side[1]],
            size=9,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    return heights


def tilt(names: Sequence[str], inches: float) -> dict[str, Any]:
    """Settings of tick labels that have so much room each: level, or slanting where they are longer."""
    if LETTER * max(len(name) for name in names) < inches:
        return {}
    return {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}
