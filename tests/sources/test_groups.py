"""Groups never stand on both sides of a cut, and every class stands on both."""

import re

import numpy as np
import pytest

from drtune.base.errors import DataError
from drtune.sources import splits
from drtune.sources.groups import cut_groups, grouped, together
from drtune.sources.samples import Sample, Source

CLASSES = [str(number) for number in range(10)]


def drawn(seed, groups, classes, purity):
    """Labels and groups of 1 to 20 images a group, of which a share `purity` is of the group's own class."""
    random = np.random.default_rng(seed)
    labels, names = [], []
    for group in range(groups):
        size = int(random.integers(1, 21))
        own = random.random(size) < purity
        labels += np.where(own, group % classes, random.integers(0, classes, size)).tolist()
        names += [f"g{group}"] * size
    return labels, names


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
@pytest.mark.parametrize(("groups", "classes", "purity"), [(20, 2, 1.0), (60, 5, 0.6), (200, 10, 0.8)])
def test_groups_stay_whole_and_shares_are_near(fraction, groups, classes, purity):
    for seed in range(5):
        labels, names = drawn(seed, groups, classes, purity)
        first, second = cut_groups(labels, names, fraction, seed, purpose="test", classes=CLASSES, keep=2)
        assert sorted(first + second) == list(range(len(labels)))
        assert not {names[row] for row in first} & {names[row] for row in second}
        total = np.bincount(labels, minlength=classes)
        shares = np.bincount([labels[row] for row in second], minlength=classes) / total
        assert (shares > 0).all()
        assert (shares < 1).all()
        assert abs(len(second) / len(labels) - fraction) < 0.05
        assert abs(shares - fraction).mean() < 0.1


def test_equal_seeds_give_equal_cuts_and_others_others():
    labels, names = drawn(0, 40, 4, 1.0)
    cuts = [cut_groups(labels, names, 0.2, seed, purpose="val", classes=CLASSES)[1] for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]


def test_groups_of_one_are_cut_as_rows():
    labels = [0] * 10 + [1] * 20
    about = {"purpose": "test", "classes": CLASSES, "keep": 2}
    rows = splits.cut(labels, 0.3, 5, **about)
    assert cut_groups(labels, list(range(30)), 0.3, 5, **about) == rows


def test_the_smallest_cut_that_there_is():
    labels, names = [0, 0, 0, 1, 1, 1], ["a", "b", "c", "d", "d", "e"]
    first, second = cut_groups(labels, names, 0.01, 0, purpose="val", classes=CLASSES)
    assert sorted(labels[row] for row in second) == [0, 1]
    assert 5 in second
    assert len(first) == 4


def test_too_few_groups_are_named():
    with pytest.raises(
        DataError, match=r"cutting test needs at least 3 groups in every class; too few in: 0 \(2\)"
    ):
        cut_groups([0, 0, 0, 1, 1, 1], list("aabcde"), 0.3, 0, purpose="test", classes=CLASSES, keep=2)


def test_classes_that_only_stand_together_cannot_be_cut():
    labels = [0, 1, 0, 2, 1, 2]  # each group holds two classes, each class has two groups
    with pytest.raises(
        DataError, match="cutting val by groups: . stands only in groups that other classes cannot"
    ):
        cut_groups(labels, list("aabbcc"), 0.3, 0, purpose="val", classes=CLASSES)


def source(*parts, names="ab", **about):
    rows = {
        part: [
            Sample(f"{part}/{name}_{number}.jpg", number % 2, lambda: b"")
            for number in range(3)
            for name in names
        ]
        for part in parts
    }
    return Source("toy", "toy", ("x", "y"), rows, "", "", "", **about)


def test_an_expression_names_groups_by_its_first_parentheses_or_as_a_whole():
    assert {row.group for row in grouped(source("train"), r"/(\w)_").parts["train"]} == {"a", "b"}
    assert {row.group for row in grouped(source("train"), r"\w_").parts["train"]} == {"a_", "b_"}
    assert grouped(source("train"), r"/(\w)_").grouped == r"data.group /(\w)_"
    assert {row.group for row in grouped(source("train"), r"/(a)_|/(b)_").parts["train"]} == {"a", "b"}
    assert grouped(source("train"), None).grouped == ""


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (
            "patient",
            r"'patient' is no column of a labels\.csv, and as a regular expression finds nothing in train",
        ),
        ("x*", "finds nothing in train/a_0.jpg, train/b_0.jpg, train/a_1.jpg, … (3 more); every image needs"),
        ("(a", r"'\(a' is no column, and no regular expression: missing \)"),
    ],
)
def test_an_expression_that_does_not_fit(group, words):
    words = words if "\\" in words else re.escape(words)
    with pytest.raises(DataError, match=words):
        grouped(source("train"), group)


def test_a_given_split_that_tears_groups_is_refused():
    words = r"toy: 2 groups \(data\.group .*\) stand in two parts\n  a: train, test\n  b: train, test\nmend"
    with pytest.raises(DataError, match=words):
        grouped(source("train", "test"), r"/(\w)_")
    assert grouped(source("train", "ood/fog"), r"/(\w)_").grouped


def test_groups_that_keep_nothing_together_are_said():
    assert grouped(source("train"), r"train/.*").warnings == (
        "data.group train/.*: every image is a group of its own, so nothing is kept together",
    )


def test_groups_and_equal_bytes_join():
    pairs = [("1", "g"), ("2", "g"), ("3", "h"), ("4", ""), ("5", ""), ("6", "")]
    rows = [Sample(name, 0, lambda: b"", group) for name, group in pairs]
    digests = {"1": b"a", "2": b"b", "3": b"b", "4": b"c", "5": b"c", "6": b"d"}
    keys = together(rows, digests)
    assert keys[0] == keys[1] == keys[2]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 3
    assert len(set(together(rows, {}))) == 5
