import math

import pytest

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


def points_at(*places):
    return [Point(number, "COMPLETE", place, {}) for number, place in enumerate(places)]


def test_only_finite_values_of_the_state_count():
    points = [
        Point(3, "COMPLETE", (0.5,), {}),
        Point(1, "COMPLETE", (0.7,), {}),
        Point(0, "PRUNED", (0.9,), {}),
        Point(2, "COMPLETE", (math.inf,), {}),
        Point(4, "PRUNED", (), {}),
        Point(5, "FAIL", (), {}),
    ]
    assert [point.number for point in measured(points, "COMPLETE")] == [1, 3]
    assert [point.number for point in measured(points, "PRUNED")] == [0]
    assert counted(points) == "6 trials (3 completed, 2 pruned, 1 failed)"
    assert counted([]) == "0 trials"
    assert counted(points[:1]) == "1 trial (1 completed)"


def test_of_equal_trials_the_earliest_is_best():
    points = points_at((1.0,), (3.0,), (3.0,), (1.0,))
    assert best_of(points, maximize=True).number == 1
    assert best_of(points, maximize=False).number == 0


@pytest.mark.parametrize(
    ("maximize", "expected"),
    [((True, True), [2, 3, 1]), ((False, False), [0]), ((True, False), [4, 1]), ((False, True), [2])],
)
def test_the_front_has_what_none_beats(maximize, expected):
    points = points_at((0, 0), (4, 1), (0, 3), (2, 2), (1, 0), (2, 1))
    assert [point.number for point in pareto(points, maximize)] == expected


def test_equal_trials_share_the_front():
    assert [point.number for point in pareto(points_at((1, 1), (0, 0), (1, 1)), (True, True))] == [0, 2]


def test_near_trials_share_their_text():
    points = points_at((0, 9), (0, 9), (1, 8.9), (5, 8.8), (6, 0))
    spots = {0: (0.0, 1.0), 1: (0.0, 1.0), 2: (0.03, 0.98), 3: (0.7, 0.97), 4: (0.71, 0.0)}
    assert numbered(points, spots) == {(0, 9): "0, 1, 2", (5, 8.8): "3", (6, 0): "4"}


def test_words():
    points = [
        Point(0, "COMPLETE", (1.0,), {"b": 1, "a": 2}),
        Point(1, "COMPLETE", (1.0,), {"a": 1, "c": True}),
    ]
    assert names_of(points) == ["b", "a", "c"]
    assert sided("val_loss", False) == "val_loss (lower is better)"
    assert sided("x" * 60, True).endswith("x (higher is better)")
    assert len(sided("x" * 60, True)) == 40 + len(" (higher is better)")
