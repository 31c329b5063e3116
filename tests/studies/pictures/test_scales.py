import pytest

from drtune.evaluation.pictures.style import new_figure
from drtune.studies.pictures import scales


def ticks_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["methods.dr_tune.weight", "train.lr_backbone"], ["weight", "lr_backbone"]),
        (["methods.sp.alpha", "methods.delta.alpha", "seed"], ["sp.alpha", "delta.alpha", "seed"]),
        (["a.weight", "weight", "b.a.weight"], ["a.weight", "weight", "b.a.weight"]),
        (["train.$x$", "_y", "a.b_weight", "b.weight"], ["$x$", "_y", "b_weight", "weight"]),
        (["a." + 30 * "x"], [12 * "x" + "…" + 11 * "x"]),
        (["a." + 15 * "x" + end + 15 * "x" for end in "yz"], [15 * "x" + end + 15 * "x" for end in "yz"]),
    ],
)
def test_short_names_stay_distinct(names, expected):
    assert scales.short_names(names) == dict(zip(names, expected, strict=True))
    assert len(set(expected)) == len(names)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2048, "2048"),
        (True, "true"),
        ("off", "off"),
        (0.0312456, "0.03125"),
        (1e-5, "1e-05"),
        (10**7, "1e+07"),
    ],
)
def test_values_are_written_as_in_settings(value, expected):
    assert scales.written(value) == expected


def test_numbers_and_categories_have_places():
    numbers = scales.scale_of([64, 0.5], log=True)
    assert numbers.log
    assert numbers.place(64) == 64
    mixed = scales.scale_of(["dot", 0.5, "cosine", True, "dot", 2], log=True)
    assert mixed == scales.Scale(("0.5", "true", "2", "cosine", "dot"), log=False)
    assert [mixed.place(value) for value in (0.5, True, 2, "dot")] == [0, 1, 2, 4]
    assert not scales.scale_of([0, 1], log=True).log


def test_fractions_go_from_lowest_to_highest():
    assert scales.fractions([3, 1, 2]) == [1, 0, 0.5]
    assert scales.fractions([0.1, 1, 10], log=True) == pytest.approx([0, 0.5, 1])
    assert scales.fractions([1e-30, 1, 1e30]) == pytest.approx([0, 0.5, 1])
    assert scales.fractions([7, 7]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.03, 10, ["0.1", "1", "10"]),
        (64, 2048, ["100", "300", "1000"]),
        (0.002, 0.008, ["0.002", "0.004", "0.006", "0.008"]),
        (1.01, 1.04, ["1.01", "1.04"]),
        (1e-30, 1e30, ["1e-30", "1e-17", "0.0001", "1e+09", "1e+22"]),
    ],
)
def test_a_logarithmic_axis_has_few_round_ticks(low, high, expected):
    axes = new_figure(3, 3).add_subplot()
    scales.lay_along(axes, scales.scale_of([low, high], log=True), [low, high], 2)
    assert axes.get_xscale() == "log"
    assert ticks_of(axes.xaxis) == expected
    assert axes.get_xticks(minor=True).size == 0


def test_an_axis_is_stretched_only_where_values_differ_much():
    for values, expected in (
        ([1, 999], "linear"),
        ([1, 1000], "log"),
        ([-1, 1e9], "linear"),
        ([0, 0], "linear"),
    ):
        axes = new_figure(3, 3).add_subplot()
        scales.stretch(axes.yaxis, values)
        assert axes.get_yscale() == expected, values


def test_long_categories_slant():
    axes = new_figure(3, 3).add_subplot()
    scales.lay_along(axes, scales.Scale(("a", "b" * 30), log=False), [0, 1], 2)
    assert ticks_of(axes.xaxis) == ["a", "bbbbbbbb…bbbbbbb"]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {25}
    assert scales.tilt(["a", "b"], 2) == {}


@pytest.mark.parametrize(
    ("values", "log", "heights", "labels"),
    [
        ([64, 2048, 1056], False, [0, 1, 0.5], ["64", "2048"]),
        ([0.01, 0.1, 1.0], True, [0, 0.5, 1], ["0.01", "1"]),
        ([0.3, 0.3], True, [0.5, 0.5], ["0.3"]),
        (["b", "a", "c"], False, [0.5, 0, 1], ["a", "b", "c"]),
        ([True, True], False, [0.5, 0.5], ["true"]),
    ],
)
def test_upright_axes_write_ends_or_categories(values, log, heights, labels):
    axes = new_figure(3, 3).add_subplot()
    assert scales.lay_upright(axes, 2, values, log) == pytest.approx(heights)
    assert sorted(text.get_text() for text in axes.texts) == sorted(labels)
    assert {text.xy[0] for text in axes.texts} == {2}
