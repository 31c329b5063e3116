import copy

import pytest
import torch

from drtune.methods.bi_tuning.queues import ClassQueues


def pushed_in_steps(capacity, sizes, classes=4, widths=(3, 2), seed=0):
    """Queues after several pushes, and all that was pushed of each class, oldest first."""
    random = torch.Generator().manual_seed(seed)
    queues, kept = ClassQueues(classes, capacity, widths, torch.device("cpu")), [[] for _ in range(classes)]
    for size in sizes:
        labels = torch.randint(classes - 1, (size,), generator=random)  # the last class never comes
        rows = [torch.randn(size, width, generator=random) for width in widths]
        queues.push(rows, labels)
        for i, label in enumerate(labels.tolist()):
            kept[label].append([part[i] for part in rows])
    return queues, kept


@pytest.mark.parametrize("capacity", [1, 3, 5, 40])
@pytest.mark.parametrize("sizes", [[1], [8, 8, 8], [5, 1, 30, 2], [64]])
def test_each_class_keeps_its_last_keys_and_no_others(capacity, sizes):
    queues, kept = pushed_in_steps(capacity, sizes)
    for label, pairs in enumerate(kept):
        assert queues.pushed[label] == len(pairs)
        assert queues.filled[label].tolist() == [slot < len(pairs) for slot in range(capacity)]
        for number in range(max(len(pairs) - capacity, 0), len(pairs)):
            for table, row in zip(queues.tables, pairs[number], strict=True):
                assert torch.equal(table[label, number % capacity], row)
    assert not queues.filled[3].any()


def test_filled_of_shows_the_slots_of_the_own_class_alone():
    queues, kept = pushed_in_steps(6, [7, 4])
    labels = torch.tensor([2, 0, 3, 2])
    found = queues.filled_of(labels)
    assert found.shape == (4, 4, 6)
    for row, label in zip(found, labels.tolist(), strict=True):
        assert row[label].sum() == min(len(kept[label]), 6)
        assert row.sum() == row[label].sum()


def test_keys_are_kept_without_gradient_and_in_float32():
    queues = ClassQueues(2, 3, (4,), torch.device("cpu"))
    rows = torch.randn(2, 4, requires_grad=True)
    queues.push([rows.bfloat16()], torch.tensor([0, 1]))
    assert queues.tables[0].dtype == torch.float32
    assert not queues.tables[0].requires_grad
    assert torch.equal(queues.tables[0][:, 0], rows.detach().bfloat16().float())


def test_state_round_trip_goes_on_in_the_same_slots():
    queues, _ = pushed_in_steps(3, [9, 4])
    other = ClassQueues(4, 3, (3, 2), torch.device("cpu"))
    other.load_state_dict(copy.deepcopy(queues.state_dict()))
    rows, labels = [torch.randn(5, 3), torch.randn(5, 2)], torch.tensor([0, 1, 1, 3, 1])
    for each in (queues, other):
        each.push(rows, labels)
    for name, value in queues.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
