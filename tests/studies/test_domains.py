import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from drtune.studies.domains import (
    FINITE,
    checked_choices,
    checked_range,
    count_of,
    ends,
    holds,
    points,
    rounded,
    values_of,
)

NUMBER = {"low": 0.5, "high": 2.0}
FINITE_FLOATS = st.floats(-1e9, 1e9)


# --- what is in a domain


def test_an_interval_holds_its_ends_and_what_lies_between():
    interval = FloatDistribution(0.5, 2.0)
    found = [holds(interval, value) for value in (0.5, 1, 2.0, 0.499, 2.001)]
    assert found == [True, True, True, False, False]
    assert ends(interval) == (0.5, 2.0)


@pytest.mark.parametrize("value", [True, "1", None, [1], math.nan])
def test_nothing_but_a_number_is_in_an_interval(value):
    assert not holds(FloatDistribution(0.0, 2.0), value)


def test_steps_are_the_only_values_of_an_interval_that_has_them():
    interval = FloatDistribution(0.1, 0.7, step=0.2)
    assert [round(value, 12) for value in values_of(interval)] == [0.1, 0.3, 0.5, 0.7]
    assert [holds(interval, value) for value in (0.1, 0.3, 0.1 + 0.2, 0.7, 0.2, 0.69)] == [
        *(True, True, True, True),
        *(False, False),
    ]


def test_whole_numbers_are_the_only_values_of_an_interval_of_them():
    assert values_of(IntDistribution(2, 5)) == [2, 3, 4, 5]
    assert values_of(IntDistribution(2, 11, step=3)) == [2, 5, 8, 11]
    assert len(values_of(IntDistribution(32, 2048, log=True))) == 2017
    interval = IntDistribution(32, 64, step=16)
    assert [holds(interval, value) for value in (32, 48, 64, 40, 48.5)] == [True, True, True, False, False]


def test_an_interval_with_more_values_than_anyone_tries_names_none():
    for interval in (FloatDistribution(0.0, 1.0), IntDistribution(1, 10**9)):
        assert list(values_of(interval)) == []
        assert count_of({"x": interval}) == FINITE


def test_all_choices_are_values_and_ends():
    choices = checked_choices(["off", 0.5, None])
    assert [holds(choices, value) for value in ("off", 0.5, None, "on", 0.4)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert values_of(choices) == ends(choices) == ("off", 0.5, None)


# --- checks


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([], "needs at least two different choices, got []"),
        (["a"], "needs at least two different choices, got ['a']"),
        (["a", "b", "a"], "needs at least two different choices, got ['a', 'b', 'a']"),
        ([[1], [2]], "choices must be numbers, text, true/false or null, got [[1], [2]]"),
        ([1, 1.0, 2.0], "needs at least two different choices, got [1, 1.0, 2.0]"),
        ([True, 1], "needs at least two different choices, got [True, 1]"),
        ([1.0, math.inf], "choices must be finite, got [1.0, inf]"),
        ([math.nan, 1.0], "choices must be finite, got [nan, 1.0]"),
    ],
)
def test_choices_that_are_refused(values, fault):
    with pytest.raises(ValueError, match=".") as caught:
        checked_choices(values)
    assert str(caught.value) == fault


def test_choices_keep_their_order_and_types():
    values = checked_choices([True, 3, "off", 0.5]).choices
    assert [(type(value), value) for value in values] == [(bool, True), (int, 3), (str, "off"), (float, 0.5)]


@pytest.mark.parametrize(
    ("change", "whole", "fault"),
    [
        ({"log": "yes"}, False, "log: expected true or false, got 'yes' (text)"),
        ({"high": 0.5}, False, "the range is empty: low 0.5 is not below high 0.5"),
        ({"low": 3}, False, "the range is empty: low 3 is not below high 2"),
        ({"low": 0, "log": True}, False, "a log range must lie above zero, got low 0; raise low or drop log"),
        (
            {"low": -1, "log": True},
            False,
            "a log range must lie above zero, got low -1; raise low or drop log",
        ),
        ({"step": 0}, False, "step 0: must be above 0, at most high - low, and without log"),
        ({"step": -0.5}, False, "step -0.5: must be above 0, at most high - low, and without log"),
        ({"step": 1.6}, False, "step 1.6: must be above 0, at most high - low, and without log"),
        (
            {"step": 0.5, "log": True},
            False,
            "step 0.5: must be above 0, at most high - low, and without log",
        ),
        ({"step": 0.4}, False, "high 2 is no whole number of steps above low 0.5; set high: 1.7"),
        ({}, True, "takes whole numbers, got low 0.5, high 2, step 1"),
        ({"low": 1, "step": 0.5}, True, "takes whole numbers, got low 1, high 2, step 0.5"),
    ],
)
def test_intervals_that_are_refused(change, whole, fault):
    with pytest.raises(ValueError, match=".") as caught:
        checked_range(NUMBER | change, whole)
    assert str(caught.value) == fault


def test_an_interval_has_numbers_of_the_kind_that_the_setting_takes():
    whole = checked_range({"low": 32.0, "high": 96.0, "step": 32.0}, whole=True)
    assert whole == IntDistribution(32, 96, step=32)
    assert [type(value) for value in (whole.low, whole.high, whole.step)] == [int, int, int]
    number = checked_range({"low": 1, "high": 3, "step": 1}, whole=False)
    assert [type(value) for value in (number.low, number.high, number.step)] == [float, float, float]
    assert checked_range({"low": 1, "high": 3, "log": True}, whole=False) == FloatDistribution(
        1.0, 3.0, log=True
    )


@pytest.mark.parametrize(("low", "high", "step"), [(0.1, 0.7, 0.2), (0.0, 0.3, 0.1), (-1.0, 1.0, 0.05)])
def test_steps_that_binary_numbers_miss_are_accepted(low, high, step):
    assert checked_range({"low": low, "high": high, "step": step}, whole=False).high == high


# --- points


@given(FINITE_FLOATS, FINITE_FLOATS, st.floats(0, 1))
def test_a_number_is_rounded_to_six_digits_and_stays_inside(low, high, share):
    assume(low < high)
    interval = FloatDistribution(low, high)
    value = min(max(low + share * (high - low), low), high)
    found = rounded({"x": interval}, {"x": value})["x"]
    assert holds(interval, found)
    assert found in (low, high) or found == float(f"{found:.6g}")
    assert abs(found - value) <= 5.1e-6 * abs(value)


def test_an_end_with_more_digits_is_not_left():
    space = {"x": FloatDistribution(1.2345611, 9.8765377)}
    assert rounded(space, {"x": 1.2345612}) == {"x": 1.2345611}
    assert rounded(space, {"x": 9.8765376}) == {"x": 9.8765377}
    assert rounded(space, {"x": 2.34567891}) == {"x": 2.34568}


def test_what_is_no_number_with_digits_is_left_alone():
    space = {
        "n": IntDistribution(1, 10**8),
        "c": CategoricalDistribution((0.12345678, "off", True)),
    }
    assert rounded(space, {"n": 12345678, "c": 0.12345678}) == {"n": 12345678, "c": 0.12345678}
    assert rounded(space, {"n": 12345678, "c": True})["c"] is True


@given(st.integers(0, 1000))
def test_rounding_does_not_leave_the_steps(number):
    interval = FloatDistribution(0.00003, 3000.00003, step=3.0)
    value = 0.00003 + number * 3.0
    found = rounded({"x": interval}, {"x": value})["x"]
    assert holds(interval, found)
    assert len(repr(found)) <= 13, "0.1 + 0.2 is written 0.3"


def test_points_of_a_finite_space_are_all_there_each_once():
    space = {
        "a": FloatDistribution(0.1, 0.4, step=0.1),
        "b": CategoricalDistribution(("x", True)),
        "c": IntDistribution(1, 3),
    }
    found = list(points(space))
    assert len(found) == count_of(space) == 24
    assert len({tuple(point.items()) for point in found}) == 24
    assert found[0] == {"a": 0.1, "b": "x", "c": 1}
    assert {point["a"] for point in found} == {0.1, 0.2, 0.3, 0.4}


def test_points_of_a_space_without_end_are_not_listed():
    space = {"a": FloatDistribution(0.1, 0.4), "b": CategoricalDistribution(("x", "y"))}
    assert list(points(space)) == []
    assert count_of(space) >= FINITE
