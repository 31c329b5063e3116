import math
import random

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from drtune.evaluation.pictures.style import GREY, VERMILION, save
from drtune.studies.pictures.study import Point, front, history, importances, parallel, slices, study_figures

LOG = {"methods.dr_tune.weight", "train.lr_backbone"}
FIRST = "trial 0: params.yaml as it stands"


def settings_of(draws, number):
    drawn = {
        "methods.dr_tune.weight": 10 ** draws.uniform(-1.5, 1),
        "methods.dr_tune.bank_size": draws.randint(64, 2048),
        "methods.dr_tune.rotation_every": draws.randint(1, 50),
        "methods.dr_tune.translation": draws.random() < 0.5,
        "methods.dr_tune.rescale": draws.choice(["batch", "off"]),
        "methods.dr_tune.confidence": draws.choice(["cosine", "dot", "off"]),
        "methods.sp.alpha": draws.random(),
        "methods.delta.alpha": draws.random(),
        "train.lr_backbone": 10 ** draws.uniform(-4, -1),
    }
    return drawn if number % 7 != 6 else {}


def study_of(count, seed=0):
    """Every fifth trial from the fourth on is pruned; every seventh failed before it drew anything."""
    draws, points = random.Random(seed), []
    for number in range(count):
        params, value = settings_of(draws, number), draws.uniform(0.5, 0.9)
        state = "FAIL" if not params else "PRUNED" if number % 5 == 3 else "COMPLETE"
        points.append(Point(number, state, () if state == "FAIL" else (value,), params))
    return points


def completed(*values, params=()):
    settings = params or [{}] * len(values)
    return [Point(i, "COMPLETE", (v,), p) for i, (v, p) in enumerate(zip(values, settings, strict=True))]


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def at(line):
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def bytes_of(figure, folder):
    save(figure, folder / "picture.png")
    with Image.open(folder / "picture.png") as image:
        image.load()
        assert min(image.size) > 100
    return (folder / "picture.png").read_bytes()


def test_history_marks_the_first_the_best_and_the_pruned():
    points = [*completed(0.7, 0.6, 0.8, 0.75), Point(4, "PRUNED", (0.4,), {}), Point(5, "PRUNED", (), {})]
    points.append(Point(6, "FAIL", (), {}))
    figure = history(points[::-1], "val_accuracy", True)
    (axes,) = figure.axes
    lines = lines_of(axes)
    assert at(lines["best so far"]) == [(0, 0.7), (1, 0.7), (2, 0.8), (3, 0.8), (6, 0.8)]
    assert lines["best so far"].get_drawstyle() == "steps-post"
    assert at(lines["completed"]) == [(0, 0.7), (1, 0.6), (3, 0.75)]
    assert at(lines["pruned: last value"]) == [(4, 0.4)]
    assert lines["pruned: last value"].get_color() == GREY
    assert lines["pruned: last value"].get_markerfacecolor() == "none"
    assert at(lines[FIRST]) == [(0, 0.7)]
    assert at(lines["best"]) == [(2, 0.8)]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("trial 2: 0.8", (2, 0.8))]
    assert axes.get_ylabel() == "val_accuracy (higher is better)"
    assert figure.get_suptitle() == "Course of the study: 7 trials (4 completed, 2 pruned, 1 failed)"


def test_history_of_a_loss_falls_and_stretches_over_a_diverged_trial():
    (axes,) = history(completed(2.0, 3e7, 1.0, 1.5), "val_loss", False).axes
    assert [y for _, y in at(lines_of(axes)["best so far"])] == [2, 2, 1, 1, 1]
    assert axes.texts[0].get_text() == "trial 2: 1"
    assert axes.get_yscale() == "log"


def test_importances_put_the_largest_on_top():
    shares = {"methods.dr_tune.weight": 0.25, "train.lr_backbone": 0.7, "data.$x$": 0.05}
    (axes,) = importances(shares, "val_accuracy").axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([70, 25, 5])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lr_backbone", "weight", "$x$"]
    assert [text.get_text() for text in axes.texts] == ["70.0", "25.0", "5.0"]
    assert axes.yaxis_inverted()


def test_slices_draw_each_parameter_on_its_scale():
    points = study_of(20)
    figure = slices(points, "val_accuracy", True, LOG)
    *panels, bar = figure.axes
    assert [axes.get_xlabel() for axes in panels] == [
        "weight", "bank_size", "rotation_every", "translation", "rescale", "confidence", "sp.alpha",
        "delta.alpha", "lr_backbone",
    ]  # fmt: skip
    assert bar.get_ylabel() == "trial"
    assert [axes.get_xscale() for axes in panels] == ["log", *["linear"] * 7, "log"]
    assert [label.get_text() for label in panels[3].get_xticklabels()] == ["false", "true"]
    done = [point for point in points if point.state == "COMPLETE"]
    best = max(done, key=lambda point: point.values)
    for axes, name in ((panels[0], "methods.dr_tune.weight"), (panels[3], "methods.dr_tune.translation")):
        (dots,) = axes.collections
        others = [point for point in done if point is not best]
        assert dots.get_array().tolist() == [point.number for point in others]
        np.testing.assert_allclose(dots.get_offsets(), [(p.params[name], *p.values) for p in others])
        assert at(lines_of(axes)["best"]) == [(best.params[name], *best.values)]
        assert at(lines_of(axes)[FIRST]) == [(points[0].params[name], *points[0].values)]
        assert len(at(lines_of(axes)["pruned: last value"])) == sum(p.state == "PRUNED" for p in points)
    assert legend_of(figure) == ["pruned: last value", "completed", "best", FIRST]


@pytest.mark.parametrize("count", range(1, 13))
def test_slices_have_as_many_panels_as_parameters(count):
    settings = [{f"train.p{i}": i + trial for i in range(count)} for trial in range(2)]
    figure = slices(completed(0.1, 0.2, params=settings), "a", True, set())
    assert [axes.get_xlabel() for axes in figure.axes[:-1]] == [f"p{i}" for i in range(count)]


def test_parallel_draws_the_best_on_top_and_a_line_a_trial():
    settings = [{"a.x": 1, "b": True}, {"a.x": 100, "b": False}, {"a.x": 10, "b": True}]
    for maximize, best in ((True, 1), (False, 2)):
        figure = parallel(completed(0.5, 0.9, 0.1, params=settings), "metric", maximize, {"a.x"})
        axes, bar = figure.axes
        drawn = [line for line in axes.lines if line.get_marker() == "o"]
        heights = [tuple(line.get_ydata()) for line in drawn]
        assert sorted(heights) == [(0, 1), (0.5, 1), (1, 0)]
        top = max(drawn, key=lambda line: line.get_zorder())
        assert top.get_label() == f"best: trial {best}, {[0.5, 0.9, 0.1][best]}"
        assert top.get_color() == VERMILION
        assert top.get_linewidth() == max(line.get_linewidth() for line in drawn)
        assert top.get_ydata() == pytest.approx([(1, 0), (0.5, 1)][best - 1])
        assert sorted(text.get_text() for text in axes.texts) == ["1", "100", "false", "true"]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "b"]
        assert bar.get_ylabel() == f"metric ({'higher' if maximize else 'lower'} is better)"


def test_parallel_is_darker_and_above_where_better():
    points = completed(*(0.1 * i for i in range(5)), params=[{"a": i} for i in range(5)])
    for maximize in (True, False):
        axes = parallel(points, "m", maximize, set()).axes[0]
        plain = [line for line in axes.lines if line.get_markersize() == 3]
        drawn = [line.get_ydata()[0] for line in plain]
        assert drawn == sorted(drawn, reverse=not maximize)
        shades = [sum(bytes.fromhex(to_hex(line.get_color())[1:])) for line in plain]
        assert shades == sorted(shades, reverse=True)
        assert len(shades) >= 3


def test_parallel_leaves_a_gap_where_a_parameter_is_missing():
    settings = [{"a": 1, "b": 5, "c": 2}, {"a": 2, "c": 3}, {"a": 3, "b": 6, "c": 4}]
    axes = parallel(completed(0.1, 0.2, 0.3, params=settings), "m", True, set()).axes[0]
    gaps = [np.isnan(line.get_ydata()).tolist() for line in axes.lines if line.get_markersize() == 3]
    assert gaps == [[False, True, False]]


@pytest.mark.parametrize(
    ("maximize", "numbers", "corner", "side"),
    [
        ((True, True), ["2", "3", "1"], "steps-pre", ("left", "bottom")),
        ((False, False), ["0"], "steps-post", ("right", "top")),
        ((True, False), ["0", "1"], "steps-pre", ("left", "top")),
    ],
)
def test_front_joins_and_numbers_what_none_beats(maximize, numbers, corner, side):
    places = [(0.0, 0.0), (4.0, 0.5), (1.0, 3.0), (2.0, 2.0), (1.0, 1.0)]
    points = [Point(i, "COMPLETE", place, {}) for i, place in enumerate(places)]
    (axes,) = front(points, ("accuracy", "seconds"), maximize).axes
    edge = lines_of(axes)["best trade-offs"]
    assert at(edge) == [places[int(number)] for number in numbers]
    assert edge.get_drawstyle() == corner
    assert [text.get_text() for text in axes.texts] == numbers
    assert {(text.get_ha(), text.get_va()) for text in axes.texts} == {side}
    assert at(lines_of(axes)["completed"]) == places
    assert at(lines_of(axes)[FIRST]) == [(0, 0)]


def test_which_figures_there_are():
    points, shares = study_of(8), {"train.lr_backbone": 1.0}
    assert list(study_figures(points, ("a",), (True,), LOG, shares)) == [
        "history", "importances", "slices", "parallel",
    ]  # fmt: skip
    assert list(study_figures(points, ("a",), (True,), LOG, {})) == ["history", "slices", "parallel"]
    two = [Point(p.number, p.state, p.values * 2, p.params) for p in points]
    figures = study_figures(two, ("a", "b"), (False, True), LOG, shares)
    assert list(figures) == ["front", "slices"]
    assert figures["slices"].get_supylabel() == "a (lower is better)"


@pytest.mark.parametrize("metrics", [("a",), ("a", "b")])
def test_a_study_without_a_completed_trial_says_so(metrics):
    points = [
        Point(0, "PRUNED", (0.5,), {"x": 1}),
        Point(1, "PRUNED", (), {"x": 2}),
        Point(2, "FAIL", (), {}),
    ]
    maximize = (True,) * len(metrics)
    for given, words in ((points, "3 trials (2 pruned, 1 failed)"), ([], "0 trials")):
        figures = study_figures(given, metrics, maximize, set(), {"x": 1.0})
        assert list(figures) == ["history"]
        assert figures["history"].texts[0].get_text() == f"No trial was completed, of {words}."
    assert "No parameter" in slices(points, "a", True, set()).texts[0].get_text()
    assert "No parameter" in parallel(points, "a", True, set()).texts[0].get_text()
    assert "No trial" in front(points, ("a", "b"), (True, True)).texts[0].get_text()


EQUAL = completed(*[0.9] * 5, params=[{"train.$x_y$": 1e9 * i, "_w": 3, "lr": 0.003} for i in range(5)])
HUGE = completed(
    *(10.0 ** (3 * i) for i in range(-8, 9)),
    params=[{"a.x": 10.0 ** (4 * i), "b.x": (-1) ** i * 10.0 ** (3 * i)} for i in range(-8, 9)],
)
CASES = {
    "one": study_of(1),
    "40 x 9": study_of(40),
    "equal": EQUAL,
    "huge": HUGE,
    "negative": completed(-1e30, 1e30, 0.0, params=[{"x": i} for i in range(3)]),
    "no parameters": completed(0.1, 0.2),
    "first failed": [Point(0, "FAIL", (), {}), *study_of(5)[1:]],
    "first pruned": [Point(0, "PRUNED", (0.1,), {"train.lr_backbone": 0.1}), *study_of(5)[1:]],
}


@pytest.mark.parametrize("case", CASES)
def test_odd_studies_are_drawn(case, tmp_path):
    figures = study_figures(
        CASES[case], ("$acc_x$",), (True,), LOG | {"a.x", "lr"}, {"_c": 0.0, "a.$b$": 0.0}
    )
    assert list(figures) == ["history", "importances", "slices", "parallel"]
    for figure in figures.values():
        bytes_of(figure, tmp_path)


@pytest.mark.parametrize("case", ["one", "equal", "huge"])
def test_odd_fronts_are_drawn(case, tmp_path):
    points = [Point(p.number, p.state, (*p.values, -p.number), p.params) for p in CASES[case]]
    bytes_of(front(points, ("$acc_x$", "_loss"), (True, False)), tmp_path)


def test_equal_studies_give_equal_bytes(tmp_path):
    points = study_of(9)
    two = [Point(p.number, p.state, p.values * 2, p.params) for p in points]
    for draw in (
        lambda: study_figures(points, ("a",), (True,), LOG, {"train.lr_backbone": 1.0}),
        lambda: {"front": front(two, ("a", "b"), (True, False))},
    ):
        first, again = draw(), draw()
        for name in first:
            assert bytes_of(first[name], tmp_path) == bytes_of(again[name], tmp_path), name


def test_names_with_signs_are_written_as_they_are():
    figures = study_figures(EQUAL, ("$acc_x$",), (True,), {"lr"}, {"train.$x_y$": 1.0, "_w": 0.0})
    assert [axes.get_xlabel() for axes in figures["slices"].axes[:-1]] == ["$x_y$", "_w", "lr"]
    labels = figures["parallel"].axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["$x_y$", "_w", "lr"]
    assert not any(label.get_parse_math() for label in labels)


def test_equal_values_have_the_middle_colour():
    figure = parallel(EQUAL, "a", True, set())
    axes, bar = figure.axes
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0.9"]
    low, high = bar.get_ylim()
    assert math.isclose((low + high) / 2, 0.9)
    assert len({line.get_color() for line in axes.lines if line.get_markersize() == 3}) == 1
