"""Pictures of a study: what each trial tried and reached, with its first trial and its best marked."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import CategoricalDistribution

from drtune.evaluation.pictures.style import BLUE, GREY, SKY, VERMILION, message, new_figure, shorten, styled
from drtune.studies.domains import Domain, Space, ends, written
from drtune.studies.space import StudySettings
from drtune.studies.standing import Standing, counts
from drtune.studies.study import Study

DARKENING = LinearSegmentedColormap.from_list("darkening", ["#bfe3b4", "#41b6c4", "#225ea8", "#081d58"])
WIDE = 1000.0
"""Positive values that differ by this factor get a logarithmic axis."""
PRUNED, COMPLETE, FIRST = "pruned: last value", "completed", "trial 0: params.yaml as it stands"
LOOKS: Sequence[Mapping[str, Any]] = [
    {"marker": "o", "color": GREY, "markersize": 5, "markerfacecolor": "none"},
    {"marker": "o", "color": SKY, "markersize": 6},
    {"marker": "*", "color": VERMILION, "markersize": 13, "markeredgecolor": "white", "mew": 0.5},
    {"marker": "D", "color": "black", "markersize": 11, "markerfacecolor": "none"},
]
"""Of trials that were pruned, that are complete, of the best and of the first."""
Groups = Mapping[str, Sequence[Standing]]
"""What a mark means, as the legend has it -> the trials that bear it; in the order of `LOOKS`."""


def study_figures(study: Study) -> dict[str, Figure]:
    """All pictures of a study, by file name.

    One objective gives `history`, `importances` (where there are any), `slices` and `parallel`; two give
    `front` and the `slices` of the first. A study without a completed trial gives a `history` that says so.
    """
    trials, best = [trial for trial in study.standings() if trial.ended], study.best()
    settings, space = study.settings, study.space
    head = f"{len(trials)} trials ({counts(trials)})" if trials else "0 trials"
    done, pruned = measured(trials, "COMPLETE"), measured(trials, "PRUNED")
    if not done:
        return {"history": message(f"No trial was completed, of {head}.")}
    one = f"best: trial {best[0].first}, {written(best[0].values[0])}"
    groups = {PRUNED: pruned, COMPLETE: [trial for trial in done if trial not in best]}
    groups |= {"best" if settings.cost else one: [*best]}
    groups |= {FIRST: [trial for trial in (*done, *pruned) if trial.first == 0]}
    sides = [
        f"{metric} ({'higher' if more else 'lower'} is better)"
        for metric, more in zip(settings.objectives, settings.maximize, strict=True)
    ]
    figures = {"slices": slices(groups, sides[0], space, f"Setting by setting: {head}")}
    if settings.cost:
        return figures | {"front": front(groups, best, sides, f"Two objectives: {head}")}
    better = np.maximum if settings.maximize[0] else np.minimum
    figures["history"] = history(groups, done, better, sides[0], f"Course of the study: {head}")
    figures["parallel"] = parallel(done, {FIRST: 0, one: best[0].first}, sides[0], settings, space)
    shares = study.importances()
    return figures | ({"importances": importances(shares, settings.metric)} if shares else {})


@styled
def history(groups: Groups, done: Sequence[Standing], better: np.ufunc, side: str, title: str) -> Figure:
    """Value of each trial in the order of their numbers, and the best so far."""
    figure = new_figure(9.5, 4.6)
    axes = figure.add_subplot()
    best = better.accumulate([trial.values[0] for trial in done])
    last = max(trial.first for group in groups.values() for trial in group)
    steps = [*(trial.first for trial in done), last], [*best, best[-1]]
    axes.plot(*steps, color=BLUE, drawstyle="steps-post", label="best so far", zorder=1.5)
    mark(axes, groups, lambda trial: trial.first)
    axes.set(xlim=(-0.6, last + 0.6), xlabel="trial", ylabel=side)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return finished(figure, title)


@styled
def importances(shares: Mapping[str, float], metric: str) -> Figure:
    """Share of the metric's variation that each setting accounts for, the largest on top."""
    order = sorted(shares, key=lambda name: (shares[name], name))
    figure = new_figure(7, 1.4 + 0.32 * len(order))
    axes = figure.add_subplot()
    bars = axes.barh(list(short_names(order).values()), [100 * shares[name] for name in order], color=SKY)
    axes.bar_label(bars, fmt="%.1f", padding=4)
    axes.set(xlim=(0, max(112 * max(shares.values()), 1)), xlabel="importance (%)")
    axes.grid(False, axis="y")
    return finished(figure, f"What moves {metric}")


@styled
def slices(groups: Groups, side: str, space: Space, title: str) -> Figure:
    """The first objective against each setting, one panel each; darker dots are later trials."""
    columns = math.ceil(math.sqrt(len(space)))
    rows = -(-len(space) // columns)
    figure = new_figure(max(3.1 * columns + 1.2, 6.5), 2.5 * rows + 1.3)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    done = groups[COMPLETE]
    last = max(trial.first for group in groups.values() for trial in group)
    colours = ScalarMappable(Normalize(0, max(1, last)), DARKENING)
    look = {"cmap": DARKENING, "norm": colours.norm, "zorder": 2.1, "clip_on": False}
    for axes, (name, short) in zip(panels, short_names(list(space)).items(), strict=False):
        places = {
            trial.first: height(space[name], trial.params[name]) for g in groups.values() for trial in g
        }
        mark(axes, groups, lambda trial, places=places: places[trial.first])  # type: ignore[misc]
        spots = [places[trial.first] for trial in done], [trial.values[0] for trial in done]
        axes.scatter(*spots, 36, [trial.first for trial in done], **look)
        axes.set_xticks(*zip(*ticks_of(space[name]), strict=True))
        axes.set(xlim=(-0.08, 1.08), xlabel=short)
    for axes in list(panels[len(space) :]):
        axes.remove()
    ticks = MaxNLocator(integer=True, min_n_ticks=1)
    figure.colorbar(colours, ax=figure.axes, label="trial", ticks=ticks, aspect=14 * rows, pad=0.02)
    figure.supylabel(side, fontsize=10)
    return finished(figure, title)


@styled
def parallel(
    done: Sequence[Standing], marks: Mapping[str, int], side: str, settings: StudySettings, space: Space
) -> Figure:
    """One line a completed trial through its settings' values, darker where the metric is better."""
    figure = new_figure(float(np.clip(1.3 * len(space) + 1.6, 7.6, 14.6)), 5.4)
    axes = figure.add_subplot()
    for column, domain in enumerate(space.values()):
        axes.plot((column, column), (0, 1), color="#888888", linewidth=1, zorder=1)
        for place, text in ticks_of(domain):
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
            axes.text(column + 0.05, place, text, va="center", size=9, zorder=5, bbox=paper)
    low, *_, high = sorted([trial.values[0] for trial in done] * 2)
    norm = (LogNorm if is_wide([low, high]) else Normalize)(low, high)
    colours = DARKENING if settings.maximize[0] else DARKENING.reversed()
    bold: list[dict[str, Any]] = [
        {"color": "black", "linestyle": "--", "zorder": 3},
        {"color": VERMILION, "linewidth": 3.5, "zorder": 4},
    ]
    looks = {
        number: {"label": label, **look} for (label, number), look in zip(marks.items(), bold, strict=True)
    }
    for trial in sorted(done, key=lambda trial: trial.values[0], reverse=not settings.maximize[0]):
        plain = {"color": colours(norm(trial.values[0])), "linewidth": 1.3, "markersize": 3}
        heights = [height(domain, trial.params[name]) for name, domain in space.items()]
        axes.plot(heights, **{"marker": "o", **looks.get(trial.first, plain)})
    axes.set(xlim=(-0.4, len(space) - 0.6), ylim=(-0.1, 1.1), yticks=[])
    names = short_names(list(space)).values()
    axes.set_xticks(range(len(space)), names, rotation=25, ha="right", rotation_mode="anchor")
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=side, pad=0.01)
    return finished(figure, f"Settings side by side, completed trials, n = {len(done)}")


@styled
def front(groups: Groups, best: Sequence[Standing], sides: Sequence[str], title: str) -> Figure:
    """One objective against the other; the trials that no other one beats in both are joined and numbered."""
    figure = new_figure(7, 5.4)
    axes = figure.add_subplot()
    edge = sorted({trial.values for trial in best})
    # The corner between two neighbours takes the worse of each objective: what both surely reach.
    corner = "steps-pre" if sides[0].endswith("(higher is better)") else "steps-post"
    axes.plot(
        *zip(*edge, strict=True), color=VERMILION, drawstyle=corner, label="best trade-offs", zorder=1.5
    )
    mark(axes, groups, lambda trial: trial.values[0], objective=1)
    stretch(axes.xaxis, [trial.values[0] for group in groups.values() for trial in group])
    for x, y in edge:
        numbers = ", ".join(str(trial.first) for trial in best if trial.values == (x, y))
        axes.annotate(numbers, (x, y), (5, -5), textcoords="offset points", va="top", size=9)
    axes.set(xlabel=sides[0], ylabel=sides[1])
    return finished(figure, title)


def measured(trials: Sequence[Standing], state: str) -> list[Standing]:
    """The trials of a state with finite values, by number."""
    chosen = [t for t in trials if t.state == state and t.values and all(map(math.isfinite, t.values))]
    return sorted(chosen, key=lambda trial: trial.first)


def mark(axes: Axes, groups: Groups, x: Callable[[Standing], float], objective: int = 0) -> None:
    """Draw the marks of all trials at the height of an objective; a label without any leaves no trace."""
    for (label, group), look in zip(groups.items(), LOOKS, strict=True):
        spots = [x(trial) for trial in group], [trial.values[objective] for trial in group]
        if group:
            axes.plot(*spots, linestyle="", label=label, clip_on=False, **look)
    axes.margins(y=0.09)
    stretch(axes.yaxis, [trial.values[objective] for group in groups.values() for trial in group])


def stretch(axis: Axis, values: Sequence[float]) -> None:
    """Make an axis logarithmic where a linear one would hide most of its values."""
    if is_wide(values):
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
        axis.set_major_formatter("{x:.4g}")
        axis.set_minor_formatter(NullFormatter())


def is_wide(values: Sequence[float]) -> bool:
    """Whether positive values differ by orders of magnitude."""
    return 0 < WIDE * min(values) <= max(values)


def height(domain: Domain, value: Any) -> float:
    """How far a value lies from the lowest (0) to the highest (1) of its domain, in decades if log."""
    if isinstance(domain, CategoricalDistribution):
        return domain.choices.index(value) / (len(domain.choices) - 1)
    scale = math.log if domain.log else float
    return (scale(value) - scale(domain.low)) / (scale(domain.high) - scale(domain.low))


def ticks_of(domain: Domain) -> list[tuple[float, str]]:
    """Heights and labels of a few values of a domain: all choices, round numbers, else both ends."""
    values: Sequence[Any] = ends(domain)
    if not isinstance(domain, CategoricalDistribution):
        decades = math.log10(domain.high) - math.log10(domain.low) if domain.log else 0
        digits = (1,) if decades > 2 else (1, 3) if decades > 1 else (1, 2, 5)
        locator = LogLocator(subs=digits, numticks=5) if domain.log else MaxNLocator(4)
        places = [float(place) for place in locator.tick_values(domain.low, domain.high)]
        inside = [place for place in places if domain.low <= place <= domain.high]
        values = inside if len(inside) > 1 else values
    return [(height(domain, value), shorten(written(value), 16)) for value in values]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted name; all of it where two end alike."""
    tails = [name.rpartition(".")[2] for name in names]
    times = Counter(tails)
    return {n: shorten(tail if times[tail] == 1 else n) for n, tail in zip(names, tails, strict=True)}


def finished(figure: Figure, title: str) -> Figure:
    """The figure with its title, and every mark named once, below the panels."""
    marks: dict[str, Artist] = {}
    for axes in figure.axes:
        for artist, label in zip(*axes.get_legend_handles_labels(), strict=True):
            marks.setdefault(label, artist)
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=max(len(marks), 1))
    figure.suptitle(title)
    return figure
