"""The batch keeps its four tensors by name and by position."""

import torch

from drtune.data.batch import Batch


def test_fields_by_name_and_position():
    tensors = [torch.zeros(2, 3, 4, 4), torch.tensor([1, 0]), torch.tensor([7, 9]), torch.tensor([0, 0])]
    batch = Batch(*tensors)
    assert Batch._fields == ("images", "labels", "index", "view")
    assert batch.index is tensors[2]
    assert all(a is b for a, b in zip(batch, tensors, strict=True))
