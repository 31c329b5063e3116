import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drtune.methods.dr_tune.ring import RingBank

CPU = torch.device("cpu")


def items(first, count):
    """Pairs that say their own number: pretrained +j, downstream -j, label j."""
    numbers = torch.arange(first, first + count)
    return numbers[:, None].repeat(1, 2).double(), -numbers[:, None].repeat(1, 2).half(), numbers


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.lists(st.integers(0, 25), max_size=12))
def test_any_sequence_of_pushes_equals_a_list_of_slots(capacity, sizes):
    ring, slots, pushed = RingBank(capacity, 2, CPU, normalize=False), {}, 0
    for size in sizes:
        ring.push(*items(pushed, size))
        for number in range(pushed, pushed + size):
            slots[number % capacity] = number
        pushed += size
        expected = torch.tensor([slots[i] for i in sorted(slots)], dtype=torch.long)
        assert len(ring) == len(slots) == min(pushed, capacity)
        assert torch.equal(ring.labels, expected)
        assert torch.equal(ring.pretrained, expected[:, None].repeat(1, 2).float())
        assert torch.equal(ring.downstream, -expected[:, None].repeat(1, 2).float())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 50), st.integers(0, 99))
def test_a_round_of_turns_takes_every_filled_slot_once(capacity, filled, rows, step):
    ring = RingBank(capacity, 2, CPU, normalize=False)
    ring.push(*items(0, filled))
    slots = torch.arange(len(ring))
    steps = max(1, math.ceil(len(ring) / rows))
    turns = [slots[ring.turn(step + number, rows)] for number in range(steps)]
    sizes = [len(turn) for turn in turns]
    assert torch.equal(torch.cat(turns).sort().values, slots)
    assert max(sizes) <= rows
    assert max(sizes) - min(sizes) <= 1
    assert torch.equal(slots[ring.turn(step, None)], slots)


def test_only_filled_rows_are_exposed():
    ring = RingBank(5, 2, CPU, normalize=False)
    assert ring.pretrained.shape == (0, 2)
    ring.push(*items(1, 3))
    assert ring.labels.tolist() == [1, 2, 3]


def test_a_ring_is_float32_and_keeps_no_gradient_and_no_view_of_what_it_got():
    ring = RingBank(4, 2, CPU, normalize=False)
    rows = torch.ones(2, 2, requires_grad=True, dtype=torch.bfloat16)
    labels = torch.zeros(2, dtype=torch.long)
    ring.push(rows, rows, labels)
    with torch.no_grad():
        rows.mul_(7)
    assert ring.downstream.dtype == torch.float32
    assert not ring.downstream.requires_grad
    assert torch.equal(ring.pretrained, torch.ones(2, 2))


def test_a_ring_may_keep_its_rows_at_unit_length_as_well():
    plain, ring = (RingBank(4, 2, CPU, normalize=normalize) for normalize in (False, True))
    for first in (0, 3):
        for one in (plain, ring):
            one.push(*items(first, 3))
    assert ring.labels.tolist() == [4, 5, 2, 3]
    assert torch.equal(ring.pretrained, plain.pretrained)
    half = 0.5**0.5
    torch.testing.assert_close(ring.units, (torch.full((4, 2), half), torch.full((4, 2), -half)))
    ring.push(*items(0, 1))
    assert ring.units[0][2].tolist() == ring.units[1][2].tolist() == [0, 0]


def test_unit_rows_come_back_with_the_state():
    one, other = (RingBank(5, 64, CPU, normalize=True) for _ in range(2))
    one.push(torch.randn(7, 64), torch.randn(7, 64), torch.arange(7))
    other.load_state_dict(one.state_dict())
    assert torch.equal(torch.stack(one.units), torch.stack(other.units))


@pytest.mark.parametrize("before", [2, 5, 13])
def test_a_ring_goes_on_exactly_from_its_state(before):
    one, other = (RingBank(5, 2, CPU, normalize=False) for _ in range(2))
    one.push(*items(0, before))
    state = {name: value.clone() for name, value in one.state_dict().items()}
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other.load_state_dict(state)
    for ring in (one, other):
        ring.push(*items(before, 4))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
