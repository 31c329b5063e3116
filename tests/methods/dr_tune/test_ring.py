import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drtune.methods.dr_tune.ring import Ring


def items(first, count):
    """Pairs that say their own number: pretrained +j, downstream -j, label j."""
    numbers = torch.arange(first, first + count)
    return numbers[:, None].repeat(1, 2).double(), -numbers[:, None].repeat(1, 2).half(), numbers


def ring_of(capacity):
    """A ring of items 0, 1, …, capacity - 1."""
    pretrained, downstream, labels = items(0, capacity)
    return Ring(pretrained.float(), downstream.float(), labels)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.lists(st.integers(0, 25), max_size=12))
def test_any_sequence_of_pushes_equals_a_list_of_slots(capacity, sizes):
    ring, slots, pushed = ring_of(capacity), list(range(capacity)), capacity
    for size in sizes:
        ring.push(*items(pushed, size))
        for number in range(pushed, pushed + size):
            slots[number % capacity] = number
        pushed += size
        expected = torch.tensor(slots)
        assert len(ring) == capacity
        assert torch.equal(ring.labels, expected)
        assert torch.equal(ring.pretrained, expected[:, None].repeat(1, 2).float())
        assert torch.equal(ring.downstream, -expected[:, None].repeat(1, 2).float())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 99))
def test_a_round_of_turns_takes_every_slot_once(capacity, rows, step):
    ring, slots = ring_of(capacity), torch.arange(capacity)
    steps = max(1, math.ceil(capacity / rows))
    turns = [slots[ring.turn(step + number, rows)] for number in range(steps)]
    sizes = [len(turn) for turn in turns]
    assert torch.equal(torch.cat(turns).sort().values, slots)
    assert max(sizes) <= rows
    assert max(sizes) - min(sizes) <= 1
    assert torch.equal(slots[ring.turn(step, None)], slots)


def test_a_ring_is_float32_and_keeps_no_gradient_and_no_view_of_what_it_got():
    first = torch.zeros(4, 2)
    ring = Ring(first, first, torch.zeros(4, dtype=torch.long))
    rows = torch.ones(2, 2, requires_grad=True, dtype=torch.bfloat16)
    ring.push(rows, rows, torch.zeros(2, dtype=torch.long))
    with torch.no_grad():
        rows.mul_(7)
        first.fill_(7)
    assert ring.downstream.dtype == torch.float32
    assert not ring.downstream.requires_grad
    for table in (ring.pretrained, ring.downstream):
        assert torch.equal(table, torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None].repeat(1, 2))


@pytest.mark.parametrize("before", [2, 5, 13])
def test_a_ring_goes_on_exactly_from_its_state(before):
    one, other = ring_of(5), ring_of(5)
    one.push(*items(5, before))
    state = {name: value.clone() for name, value in one.state_dict().items()}
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other.load_state_dict(state)
    for ring in (one, other):
        ring.push(*items(5 + before, 4))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert one.labels.sort().values.tolist() == list(range(before + 4, before + 9))
