"""Cuts and draws: stratified, disjoint, repeatable."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drtune.base.errors import DataError
from drtune.sources.splits import counts_per_class, cut, few_shot, fraction, permutation

NAMES = ["ant", "bee", "cat"]
LABELS = [0] * 10 + [1] * 20 + [2] * 3


def cut_val(labels, share, seed, keep=1):
    return cut(labels, share, seed, purpose="val", classes=NAMES, keep=keep)


def test_cut_is_stratified_and_complete():
    first, second = cut_val(LABELS, 0.2, 0)
    assert sorted(first + second) == list(range(len(LABELS)))
    assert counts_per_class([LABELS[row] for row in second], 3) == [2, 4, 1]


def test_cut_depends_on_seed_and_purpose_alone():
    assert cut_val(LABELS, 0.2, 0) == cut_val(LABELS, 0.2, 0)
    assert cut_val(LABELS, 0.2, 0) != cut_val(LABELS, 0.2, 1)
    assert cut_val(LABELS, 0.2, 0) != cut(LABELS, 0.2, 0, purpose="test", classes=NAMES)


def test_one_class_does_not_move_another():
    _, small = cut_val([0] * 10 + [1] * 20, 0.2, 0)
    _, large = cut_val([0] * 10 + [1] * 30, 0.2, 0)
    assert [row for row in small if row < 10] == [row for row in large if row < 10]


@settings(max_examples=50)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=3), st.floats(0.001, 0.999), st.integers(0, 99))
def test_both_sides_hold_every_class(sizes, share, seed):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    for part in cut_val(labels, share, seed):
        assert {labels[row] for row in part} == set(labels)


def test_cut_keeps_enough_for_the_next_cut():
    first, second = cut_val([0, 0, 0], 0.9, 0, keep=2)
    assert (len(first), len(second)) == (2, 1)


def test_too_small_classes_are_named():
    with pytest.raises(
        DataError, match=r"cutting val needs at least 2 images .*; too few in: ant \(1\), cat"
    ):
        cut_val([0, 1, 1, 2], 0.5, 0)


def test_few_shot_counts_and_nesting():
    five, two = few_shot(LABELS, 5, 3), few_shot(LABELS, 2, 3)
    assert counts_per_class([LABELS[row] for row in five], 3) == [5, 5, 3]
    assert counts_per_class([LABELS[row] for row in two], 3) == [2, 2, 2]
    assert set(two) < set(five)
    assert five == sorted(five)
    assert few_shot(LABELS, 5, 4) != five


def test_fraction_keeps_at_least_one_and_all():
    assert counts_per_class([LABELS[row] for row in fraction(LABELS, 0.1, 0)], 3) == [1, 2, 1]
    assert fraction(LABELS, 1.0, 0) == list(range(len(LABELS)))
    assert fraction(LABELS, 0.5, 0) != fraction(LABELS, 0.5, 1)


def test_counts_per_class_counts_absent_classes():
    assert counts_per_class([2, 2], 4) == [0, 0, 2, 0]
    assert counts_per_class([], 2) == [0, 0]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17, 624, 625, 70_000, 1_100_000])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x5EED5EED5EED, 2**63 - 1])
def test_permutation_is_that_of_torch(count, seed):
    torch_order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    assert permutation(count, seed) == torch_order.tolist()
