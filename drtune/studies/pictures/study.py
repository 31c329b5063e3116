"""Pictures of a study: what each trial tried and reached. Letters: T trials, P parameters."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure

from drtune.evaluation.pictures.style import BLUE, GREY, SKY, VERMILION, message, new_figure, shorten, styled
from drtune.studies.pictures.scales import (
    fractions,
    lay_along,
    lay_upright,
    scale_of,
    short_names,
    stretch,
    tilt,
    whole_numbers,
    wide,
    written,
)
from drtune.studies.pictures.trials import (
    Point,
    best_of,
    counted,
    measured,
    names_of,
    numbered,
    pareto,
    sided,
)

__all__ = ["Point", "front", "history", "importances", "parallel", "slices", "study_figures"]

DARKENING = LinearSegmentedColormap.from_list("darkening", ["#bfe3b4", "#41b6c4", "#225ea8", "#081d58"])

# What a mark means, as the legend has it, and its look.
COMPLETE, PRUNED, FIRST, BEST = "completed", "pruned: last value", "trial 0: params.yaml as it stands", "best"
LOOKS: Mapping[str, Mapping[str, Any]] = {
    COMPLETE: {"marker": "o", "color": SKY, "markersize": 6},
    PRUNED: {"marker": "o", "color": GREY, "markersize": 5, "markerfacecolor": "none"},
    BEST: {"marker": "*", "color": VERMILION, "markersize": 13, "markeredgecolor": "white", "mew": 0.5},
    FIRST: {"marker": "D", "color": "black", "markersize": 11, "markerfacecolor": "none"},
}


def study_figures(
    points: Sequence[Point],
    metrics: Sequence[str],
    maximize: Sequence[bool],
    log: Collection[str],
    shares: Mapping[str, float],
) -> dict[str, Figure]:
    """All pictures of a study, by file name.

    One objective gives `history`, `importances` (where there are any), `slices` and `parallel`; two give
    `front` and the `slices` of the first. A study without a completed trial gives a `history` that says so.

    Args:
        points: the trials, in any order.
        metrics: names of the one or two objectives.
        maximize: whether more is better, for each.
        log: names of the parameters with logarithmic axes.
        shares: importances, name -> share in [0, 1].
    """
    if not measured(points, "COMPLETE"):
        return {"history": history(points, metrics[0], maximize[0])}
    cut = slices(points, metrics[0], maximize[0], log)
    if len(metrics) > 1:
        return {"front": front(points, metrics, maximize), "slices": cut}
    figures = {"history": history(points, metrics[0], maximize[0])}
    if shares:
        figures["importances"] = importances(shares, metrics[0])
    return {**figures, "slices": cut, "parallel": parallel(points, metrics[0], maximize[0], log)}


@styled
def history(points: Sequence[Point], metric: str, maximize: bool) -> Figure:
    """Value of each trial in the order of their numbers, and the best so far."""
    done, pruned = measured(points, "COMPLETE"), measured(points, "PRUNED")
    if not done:
        return message(f"No trial was completed, of {counted(points)}.")
    best, last = best_of(done, maximize), max(point.number for point in points)
    figure = new_figure(8, 4.6)
    axes = figure.add_subplot()
    axes.margins(y=0.13)
    so_far = (np.maximum if maximize else np.minimum).accumulate([p.values[0] for p in done])
    steps = [*(p.number for p in done), last], [*so_far, so_far[-1]]
    axes.plot(*steps, color=BLUE, drawstyle="steps-post", label="best so far", zorder=1.5)
    for label, chosen in marked(done, pruned, best).items():
        dots(axes, label, [p.number for p in chosen], [p.values[0] for p in chosen])
    axes.annotate(
        f"trial {best.number}: {written(best.values[0])}",
        (best.number, best.values[0]),
        xytext=(0, 9 if maximize else -9),
        textcoords="offset points",
        ha="left" if best.number < last / 4 else "right" if best.number > 3 * last / 4 else "center",
        va="bottom" if maximize else "top",
        color=VERMILION,
    )
    axes.set(xlim=(-0.6, last + 0.6), xlabel="trial", ylabel=sided(metric, maximize))
    axes.xaxis.set_major_locator(whole_numbers())
    stretch(axes.yaxis, [p.values[0] for p in (*done, *pruned)])
    legend_below(figure)
    figure.suptitle(f"Course of the study: {counted(points)}")
    return figure


@styled
def importances(shares: Mapping[str, float], metric: str) -> Figure:
    """Share of the metric's variation that each parameter accounts for, the largest on top.

    Args:
        shares: name -> share in [0, 1], at least one.
        metric: its name.
    """
    order = sorted(shares, key=lambda name: (-shares[name], name))
    short = short_names(order)
    values = [100 * shares[name] for name in order]
    figure = new_figure(7, 1.4 + 0.32 * len(order))
    axes = figure.add_subplot()
    axes.barh(range(len(order)), values, height=0.7, color=SKY)
    for row, value in enumerate(values):
        axes.annotate(f"{value:.1f}", (value, row), (4, 0), textcoords="offset points", va="center", size=9)
    axes.set_yticks(range(len(order)), [short[name] for name in order])
    axes.set(ylim=(len(order) - 0.4, -0.6), xlim=(0, max(1.12 * max(values), 1)), xlabel="importance (%)")
    axes.grid(False, axis="y")
    figure.suptitle(f"What moves {shorten(metric, 40)}")
    return figure


@styled
def slices(points: Sequence[Point], metric: str, maximize: bool, log: Collection[str]) -> Figure:
    """The metric against each parameter, one panel each; darker dots are later trials."""
    done, pruned = measured(points, "COMPLETE"), measured(points, "PRUNED")
    names = names_of([*done, *pruned])
    if not done or not names:
        return message(f"No parameter to draw, in {counted(points)}.")
    short, columns = short_names(names), math.ceil(math.sqrt(len(names)))
    rows = -(-len(names) // columns)
    figure = new_figure(max(3.1 * columns + 1.2, 6.5), 2.5 * rows + 1.3)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    marks = marked(done, pruned, best_of(done, maximize))
    colours = Normalize(0, max(1, *(point.number for point in points)))
    for axes, name in zip(panels, names, strict=False):
        values = [p.params[name] for p in (*done, *pruned) if name in p.params]
        scale = scale_of(values, name in log)
        for label, chosen in marks.items():
            here = [point for point in chosen if name in point.params]
            places, heights = [scale.place(p.params[name]) for p in here], [p.values[0] for p in here]
            if label == COMPLETE and here:
                numbers = [point.number for point in here]
                axes.scatter(places, heights, 36, numbers, cmap=DARKENING, norm=colours, zorder=2)
                axes.plot([], [], linestyle="", label=label, **LOOKS[label])
            else:
                dots(axes, label, places, heights)
        lay_along(axes, scale, [scale.place(value) for value in values], 2.6)
        axes.set_xlabel(short[name])
    for axes in list(panels[len(names) :]):
        axes.remove()
    stretch(panels[0].yaxis, [p.values[0] for p in (*done, *pruned)])
    bar = ScalarMappable(colours, DARKENING)
    figure.colorbar(bar, ax=figure.axes, label="trial", ticks=whole_numbers(), aspect=14 * rows, pad=0.02)
    legend_below(figure)
    figure.supylabel(sided(metric, maximize), fontsize=10)
    figure.suptitle(f"Parameter by parameter: {counted(points)}")
    return figure


@styled
def parallel(points: Sequence[Point], metric: str, maximize: bool, log: Collection[str]) -> Figure:
    """One line a completed trial through its parameters' values, darker where the metric is better."""
    done = measured(points, "COMPLETE")
    names = names_of(done)
    if not names:
        return message(f"No parameter to draw, in {counted(points)}.")
    best, short = best_of(done, maximize), short_names(names)
    inches = float(np.clip(1.3 * len(names), 6, 13))
    figure = new_figure(inches + 1.6, 5.4)
    axes = figure.add_subplot()
    heights = np.full((len(done), len(names)), np.nan)  # [T, P]; a gap where a trial lacks a parameter
    for column, name in enumerate(names):
        rows = [row for row, point in enumerate(done) if name in point.params]
        heights[rows, column] = lay_upright(
            axes, column, [done[row].params[name] for row in rows], name in log
        )
    values = [point.values[0] for point in done]
    norm = shading(values)
    colours = DARKENING if maximize else DARKENING.reversed()
    best_look = {"color": VERMILION, "linewidth": 3.5, "zorder": 4}
    looks: dict[int, dict[str, Any]] = {
        0: {"label": FIRST, "color": "black", "linestyle": "--", "zorder": 3},
        best.number: {"label": f"{BEST}: trial {best.number}, {written(best.values[0])}", **best_look},
    }
    for row in sorted(range(len(done)), key=lambda row: values[row], reverse=not maximize):
        plain = {"color": colours(norm(values[row])), "linewidth": 1.3, "markersize": 3}
        axes.plot(heights[row], **{"marker": "o", **looks.get(done[row].number, plain)})
    axes.set(xlim=(-0.4, len(names) - 0.5), ylim=(-0.1, 1.1), yticks=[])
    tilted = tilt(list(short.values()), inches / len(names))
    axes.set_xticks(range(len(names)), [short[name] for name in names], **tilted)
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=sided(metric, maximize), pad=0.01)
    if min(values) == max(values):
        bar.set_ticks(values[:1], labels=[written(values[0])])
    stretch(bar.ax.yaxis, values)
    legend_below(figure)
    figure.suptitle(f"Parameters side by side, completed trials, n = {len(done)}")
    return figure


@styled
def front(points: Sequence[Point], metrics: Sequence[str], maximize: Sequence[bool]) -> Figure:
    """One objective against the other; the trials that no other one beats in both are joined and numbered."""
    done = measured(points, "COMPLETE")
    if not done:
        return message(f"No trial was completed, of {counted(points)}.")
    figure = new_figure(7, 5.4)
    axes = figure.add_subplot()
    axes.margins(0.09)
    unbeaten = pareto(done, maximize)
    # The corner between two neighbours takes the worse of each objective: what both surely reach.
    corner = "steps-pre" if maximize[0] else "steps-post"
    edge = [[point.values[i] for point in unbeaten] for i in (0, 1)]
    axes.plot(*edge, color=VERMILION, drawstyle=corner, label="best trade-offs")
    dots(axes, COMPLETE, *([point.values[i] for point in done] for i in (0, 1)))
    axes.plot(*edge, color=VERMILION, marker="o", markersize=6, linestyle="")
    for point in done:
        if point.number == 0:
            dots(axes, FIRST, [point.values[0]], [point.values[1]])
    spots = zip(*(fractions([p.values[i] for p in done]) for i in (0, 1)), strict=True)
    where = {point.number: spot for point, spot in zip(done, spots, strict=True)}
    for place, text in numbered(unbeaten, where).items():
        axes.annotate(
            text,
            place,
            xytext=(5 if maximize[0] else -5, 5 if maximize[1] else -5),  # towards the side where no dot is
            textcoords="offset points",
            ha="left" if maximize[0] else "right",
            va="bottom" if maximize[1] else "top",
            size=9,
        )
    axes.set(xlabel=sided(metrics[0], maximize[0]), ylabel=sided(metrics[1], maximize[1]))
    for i, axis in enumerate((axes.xaxis, axes.yaxis)):
        stretch(axis, [point.values[i] for point in done])
    legend_below(figure)
    figure.suptitle(f"Two objectives: {counted(points)}")
    return figure


def marked(done: list[Point], pruned: list[Point], best: Point) -> dict[str, list[Point]]:
    """Label of a mark -> the trials that bear it, in the order of drawing."""
    first = [point for point in (*done, *pruned) if point.number == 0]
    others = [point for point in done if point is not best]
    return {PRUNED: pruned, COMPLETE: others, BEST: [best], FIRST: first}


def shading(values: Sequence[float]) -> Normalize:
    """Colours from the lowest to the highest value; equal ones are in the middle."""
    low, high = min(values), max(values)
    if low == high:
        return Normalize(low - max(abs(low), 1), high + max(abs(high), 1))
    return (LogNorm if wide(values) else Normalize)(low, high)


def dots(axes: Axes, label: str, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw the marks of one label; none leaves no trace in the legend."""
    if x:
        axes.plot(x, y, linestyle="", label=label, clip_on=False, **LOOKS[label])


def legend_below(figure: Figure) -> None:
    """Name every mark once, below the panels."""
    marks: dict[str, Artist] = {}
    for axes in figure.axes:
        for mark, label in zip(*axes.get_legend_handles_labels(), strict=True):
            marks.setdefault(label, mark)
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=len(marks))
