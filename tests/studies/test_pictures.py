import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from PIL import Image
from stand_ins import SETTINGS

from drtune.evaluation.pictures.style import GREY, VERMILION, new_figure, save
from drtune.studies import pictures
from drtune.studies.pictures import study_figures
from drtune.studies.space import StudySettings
from drtune.studies.standing import Standing

FIRST = "trial 0: params.yaml as it stands"
SPACE = {
    "methods.dr_tune.weight": FloatDistribution(0.03, 10.0, log=True),
    "methods.dr_tune.bank_size": IntDistribution(64, 2048),
    "methods.dr_tune.translation": CategoricalDistribution([True, False]),
    "methods.dr_tune.confidence": CategoricalDistribution(["cosine", "dot", "off", None]),
    "methods.sp.alpha": FloatDistribution(0.0, 1.0, step=0.25),
    "methods.delta.alpha": FloatDistribution(0.0, 1.0),
    "train.lr_backbone": FloatDistribution(0.0001, 0.1, log=True),
}


def drawn(space, draws):
    """A point of a space."""
    point = {}
    for name, domain in space.items():
        if isinstance(domain, CategoricalDistribution):
            point[name] = draws.choice(domain.choices)
        elif isinstance(domain, IntDistribution):
            point[name] = draws.randint(domain.low, domain.high)
        else:
            point[name] = draws.choice([domain.low, domain.high])
    return point


def trial(number, *values, state="COMPLETE", **params):
    return Standing(100 + number, number, state, values, params, "x" if state == "FAIL" else "", "", 1.0)


def study_of(count, space=SPACE, value=None):
    """Every fifth trial from the fourth on is pruned; every seventh failed before it reported anything."""
    draws, trials = random.Random(0), []
    for number in range(count):
        state = "FAIL" if number % 7 == 6 else "PRUNED" if number % 5 == 3 else "COMPLETE"
        values = () if state == "FAIL" else (draws.uniform(0.5, 0.9) if value is None else value,)
        trials.append(trial(number, *values, state=state, **drawn(space, draws)))
    return trials


def figures_of(trials, space=SPACE, shares=None, **change):
    """All pictures, with the best as Optuna finds them."""
    settings = StudySettings.model_validate({**SETTINGS, **change})
    done = [one for one in trials if one.state == "COMPLETE"]
    if settings.cost:
        beaten = [
            one
            for one in done
            for other in done
            if other.values != one.values
            and other.values[0] >= one.values[0]
            and other.values[1] <= one.values[1]
        ]
        best = [one for one in done if one not in beaten]
    else:
        best = sorted(done, key=lambda one: one.values, reverse=settings.maximize[0])[:1]
    parts = {"standings": lambda: trials, "best": lambda: best, "importances": lambda: shares or {}}
    return study_figures(SimpleNamespace(settings=settings, space=space, **parts))


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def at(line):
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def ticks_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def bytes_of(figure, folder):
    save(figure, folder / "picture.png")
    with Image.open(folder / "picture.png") as image:
        image.load()
        assert min(image.size) > 100
    return (folder / "picture.png").read_bytes()


X = {"x": IntDistribution(0, 9)}


def test_history_marks_the_first_the_best_and_the_pruned():
    trials = [trial(number, value, x=number) for number, value in enumerate((0.7, 0.6, 0.8, 0.75))]
    trials += [trial(4, 0.4, state="PRUNED", x=4), trial(5, state="PRUNED", x=5), trial(6, state="FAIL", x=6)]
    figure = figures_of(trials[::-1], X)["history"]
    (axes,) = figure.axes
    lines = lines_of(axes)
    assert at(lines["best so far"]) == [(0, 0.7), (1, 0.7), (2, 0.8), (3, 0.8), (4, 0.8)]
    assert lines["best so far"].get_drawstyle() == "steps-post"
    assert at(lines["completed"]) == [(0, 0.7), (1, 0.6), (3, 0.75)]
    assert at(lines["pruned: last value"]) == [(4, 0.4)]
    assert lines["pruned: last value"].get_color() == GREY
    assert lines["pruned: last value"].get_markerfacecolor() == "none"
    assert at(lines[FIRST]) == [(0, 0.7)]
    assert at(lines["best: trial 2, 0.8"]) == [(2, 0.8)]
    assert axes.get_ylabel() == "val_accuracy (higher is better)"
    assert figure.get_suptitle() == "Course of the study: 7 trials (1 fail, 2 pruned, 4 complete)"


def test_history_of_a_loss_falls_and_stretches_over_a_diverged_trial():
    trials = [trial(number, value, x=number) for number, value in enumerate((2.0, 3e7, 1.0, 1.5))]
    (axes,) = figures_of(trials, X, metric="val_loss", direction="minimize")["history"].axes
    assert [y for _, y in at(lines_of(axes)["best so far"])] == [2, 2, 1, 1, 1]
    assert axes.get_ylabel() == "val_loss (lower is better)"
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 999], "linear"), ([1, 1000], "log"), ([-1, 1e9], "linear"), ([0, 0], "linear")],
)
def test_an_axis_is_stretched_only_where_values_differ_much(values, expected):
    axes = new_figure(3, 3).add_subplot()
    pictures.stretch(axes.yaxis, values)
    assert axes.get_yscale() == expected


def test_importances_put_the_largest_on_top():
    shares = {"methods.dr_tune.weight": 0.25, "train.lr_backbone": 0.7, "data.$x$": 0.05}
    (axes,) = figures_of(study_of(3), shares=shares)["importances"].axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([5, 25, 70])
    assert ticks_of(axes.yaxis) == ["$x$", "weight", "lr_backbone"], "from below"
    assert [text.get_text() for text in axes.texts] == ["5.0", "25.0", "70.0"]


def test_slices_draw_each_setting_on_its_scale():
    trials = study_of(20)
    figure = figures_of(trials)["slices"]
    *panels, bar = figure.axes
    assert [axes.get_xlabel() for axes in panels] == [
        "weight", "bank_size", "translation", "confidence", "methods.sp.alpha", "methods.delta.alpha",
        "lr_backbone",
    ]  # fmt: skip
    assert bar.get_ylabel() == "trial"
    assert ticks_of(panels[0].xaxis) == ["0.1", "1", "10"]
    assert ticks_of(panels[2].xaxis) == ["true", "false"]
    assert ticks_of(panels[3].xaxis) == ["cosine", "dot", "off", "null"]
    assert panels[1].get_xlim() == (-0.08, 1.08), "all that was allowed, not what was tried"
    done = [one for one in trials if one.state == "COMPLETE"]
    best = max(done, key=lambda one: one.values)
    for axes, name in ((panels[0], "methods.dr_tune.weight"), (panels[1], "methods.dr_tune.bank_size")):
        (dots,) = axes.collections
        others = [one for one in done if one is not best]
        assert dots.get_array().tolist() == [one.first for one in others]
        places = {one.first: pictures.height(SPACE[name], one.params[name]) for one in done}
        np.testing.assert_allclose(dots.get_offsets(), [(places[one.first], *one.values) for one in others])
        lines = lines_of(axes)
        top = lines[f"best: trial {best.first}, {best.values[0]:.4g}"]
        assert at(top) == [(places[best.first], *best.values)]
        assert at(lines[FIRST]) == [(places[0], *trials[0].values)]
        assert len(at(lines["pruned: last value"])) == sum(one.state == "PRUNED" for one in trials)
    assert legend_of(figure)[0::3] == ["pruned: last value", FIRST]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 12])
def test_slices_have_as_many_panels_as_settings(count):
    space = {f"train.p{i}": IntDistribution(0, 20) for i in range(count)}
    trials = [trial(number, 0.1, **dict.fromkeys(space, number)) for number in range(2)]
    figure = figures_of(trials, space)["slices"]
    assert [axes.get_xlabel() for axes in figure.axes[:-1]] == [f"p{i}" for i in range(count)]


PAIR = {"a.x": FloatDistribution(1.0, 100.0, log=True), "b": CategoricalDistribution([True, False])}


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 2)])
def test_parallel_draws_the_best_on_top_and_a_line_a_trial(direction, best):
    trials = [trial(0, 0.5, **{"a.x": 1.0, "b": True}), trial(1, 0.9, **{"a.x": 100.0, "b": False})]
    trials.append(trial(2, 0.1, **{"a.x": 10.0, "b": True}))
    metric = "val_accuracy" if direction == "maximize" else "val_loss"
    figure = figures_of(trials, PAIR, metric=metric, direction=direction)["parallel"]
    axes, bar = figure.axes
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    assert sorted(tuple(line.get_ydata()) for line in lines) == [(0, 0), (0.5, 0), (1, 1)]
    top = max(lines, key=lambda line: line.get_zorder())
    assert top.get_label() == f"best: trial {best}, {[0.5, 0.9, 0.1][best]}"
    assert top.get_color() == VERMILION
    assert top.get_linewidth() == max(line.get_linewidth() for line in lines)
    assert sorted(text.get_text() for text in axes.texts) == ["1", "10", "100", "3", "30", "false", "true"]
    assert ticks_of(axes.xaxis) == ["x", "b"]
    assert bar.get_ylabel() == f"{metric} ({'higher' if direction == 'maximize' else 'lower'} is better)"


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_parallel_is_darker_and_above_where_better(direction):
    trials = [trial(number, 0.1 * number, x=number) for number in range(6)]
    metric = "val_accuracy" if direction == "maximize" else "val_loss"
    axes = figures_of(trials, X, metric=metric, direction=direction)["parallel"].axes[0]
    plain = [line for line in axes.lines if line.get_markersize() == 3]
    heights = [line.get_ydata()[0] for line in plain]
    assert heights == sorted(heights, reverse=direction == "minimize")
    shades = [sum(bytes.fromhex(to_hex(line.get_color())[1:])) for line in plain]
    assert shades == sorted(shades, reverse=True)
    assert len(shades) >= 4


@pytest.mark.parametrize(
    ("name", "value", "height"),
    [("a.x", 1.0, 0), ("a.x", 10.0, 0.5), ("a.x", 100.0, 1), ("b", True, 0), ("b", False, 1)],
)
def test_heights_go_from_lowest_to_highest(name, value, height):
    assert pictures.height(PAIR[name], value) == pytest.approx(height)
    assert pictures.height(CategoricalDistribution(["x", "y", "z"]), "y") == 0.5
    assert pictures.height(IntDistribution(64, 2048), 1056) == 0.5


def test_front_joins_and_numbers_what_none_beats():
    places = [(0.0, 0.0), (4.0, 0.5), (1.0, 3.0), (2.0, 2.0), (1.0, 1.0), (4.0, 0.5)]
    trials = [trial(number, *place, x=number) for number, place in enumerate(places)]
    (axes,) = figures_of(trials, X, cost="seconds")["front"].axes
    lines = lines_of(axes)
    assert at(lines["best trade-offs"]) == [(0, 0), (4, 0.5)]
    assert lines["best trade-offs"].get_drawstyle() == "steps-pre"
    assert [text.get_text() for text in axes.texts] == ["0", "1, 5"], "equal ones share their text"
    assert at(lines["completed"]) == [(1, 3), (2, 2), (1, 1)]
    assert at(lines[FIRST]) == [(0, 0)]
    assert axes.get_xlabel() == "val_accuracy (higher is better)"
    assert axes.get_ylabel() == "seconds (lower is better)"


def test_which_figures_there_are():
    shares = {"train.lr_backbone": 1.0}
    assert set(figures_of(study_of(8), shares=shares)) == {"history", "importances", "slices", "parallel"}
    assert set(figures_of(study_of(8))) == {"history", "slices", "parallel"}
    two = [trial(one.first, *one.values * 2, state=one.state, **one.params) for one in study_of(8)]
    figures = figures_of(two, shares=shares, cost="seconds")
    assert set(figures) == {"front", "slices"}
    assert figures["slices"].get_supylabel() == "val_accuracy (higher is better)"


@pytest.mark.parametrize("cost", [None, "seconds"])
def test_a_study_without_a_completed_trial_says_so(cost):
    trials = [trial(0, 0.5, state="PRUNED", x=1), trial(1, state="PRUNED", x=2), trial(2, state="FAIL")]
    for given, words in ((trials, "3 trials (2 pruned, 1 fail)"), ([], "0 trials")):
        figures = figures_of(given, X, cost=cost)
        assert list(figures) == ["history"]
        assert figures["history"].texts[0].get_text() == f"No trial was completed, of {words}."


CASES = {
    "one": study_of(1),
    "forty": study_of(40),
    "equal": study_of(9, value=0.9),
    "zero": study_of(9, value=0.0),
    "huge": [trial(i, 10.0 ** (3 * i - 24), **drawn(SPACE, random.Random(i))) for i in range(17)],
    "negative": [trial(i, v, **drawn(SPACE, random.Random(i))) for i, v in enumerate((-1e30, 1e30, 0.0))],
    "not finite": [*study_of(3), trial(3, math.inf, state="PRUNED"), trial(4, math.nan, state="PRUNED")],
    "first failed": [trial(0, state="FAIL"), *study_of(5)[1:]],
    "first pruned": [trial(0, 0.1, state="PRUNED", **study_of(1)[0].params), *study_of(5)[1:]],
}


@pytest.mark.parametrize("case", CASES)
def test_odd_studies_are_drawn(case, tmp_path):
    figures = figures_of(CASES[case], shares={"_c": 0.0, "a.$b$": 0.0})
    assert set(figures) == {"history", "importances", "slices", "parallel"}
    two = [trial(one.first, *one.values * 2, state=one.state, **one.params) for one in CASES[case]]
    for figure in (*figures.values(), *figures_of(two, cost="seconds").values()):
        bytes_of(figure, tmp_path)


def test_equal_studies_give_equal_bytes(tmp_path):
    two = [trial(one.first, *one.values * 2, state=one.state, **one.params) for one in study_of(9)]
    for trials, change in ((study_of(9), {"shares": {"train.lr_backbone": 1.0}}), (two, {"cost": "seconds"})):
        first, again = figures_of(trials, **change), figures_of(trials, **change)
        for name in first:
            assert bytes_of(first[name], tmp_path) == bytes_of(again[name], tmp_path), name


def test_names_with_signs_are_written_as_they_are():
    space = {"train.$x_y$": IntDistribution(0, 9), "_w": FloatDistribution(0.001, 1.0, log=True)}
    figures = figures_of([trial(i, 0.9, **{"train.$x_y$": i, "_w": 0.5}) for i in range(3)], space)
    assert [axes.get_xlabel() for axes in figures["slices"].axes[:-1]] == ["$x_y$", "_w"]
    labels = figures["parallel"].axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["$x_y$", "_w"]
    assert not any(label.get_parse_math() for label in labels)


def test_equal_values_have_one_colour():
    trials = [trial(i, 0.9, x=i) for i in range(5)]
    axes = figures_of(trials, X)["parallel"].axes[0]
    assert len({line.get_color() for line in axes.lines if line.get_markersize() == 3}) == 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["methods.dr_tune.weight", "train.lr_backbone"], ["weight", "lr_backbone"]),
        (
            ["methods.sp.alpha", "methods.delta.alpha", "seed"],
            ["methods.sp.alpha", "methods.delta.alpha", "seed"],
        ),
        (["train.$x$", "_y", "a.b_weight", "b.weight"], ["$x$", "_y", "b_weight", "weight"]),
        (["a." + 30 * "x"], [12 * "x" + "…" + 11 * "x"]),
    ],
)
def test_short_names_stay_distinct(names, expected):
    assert pictures.short_names(names) == dict(zip(names, expected, strict=True))
    assert len(set(expected)) == len(names)


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (FloatDistribution(0.03, 10.0, log=True), ["0.1", "1", "10"]),
        (IntDistribution(64, 2048, log=True), ["100", "300", "1000"]),
        (FloatDistribution(0.002, 0.008, log=True), ["0.002", "0.005"]),
        (FloatDistribution(1.01, 1.04, log=True), ["1.01", "1.015", "1.02"]),
        (FloatDistribution(0.0, 1.0), ["0", "0.25", "0.5", "0.75", "1"]),
        (FloatDistribution(1.1, 1.1000001), ["1.1", "1.1"]),
        (CategoricalDistribution([True, "b" * 30]), ["true", "bbbbbbbb…bbbbbbb"]),
    ],
)
def test_an_axis_has_few_round_numbers_or_all_choices(domain, expected):
    ticks = pictures.ticks_of(domain)
    assert [text for _, text in ticks][: len(expected)] == expected
    assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)
    assert all(0 <= place <= 1 for place, _ in ticks)
    assert len(pictures.ticks_of(FloatDistribution(1e-30, 1e30, log=True))) <= 7
