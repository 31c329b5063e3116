"""The batch keeps its four tensors by name and by position, and normalises bytes on its way to a device."""

from unittest.mock import MagicMock

import pytest
import torch
from torchvision.transforms import v2

from drtune.data.batch import Batch, on_device, sent
from drtune.data.transforms import InputSpec

CPU = torch.device("cpu")
INDEX = torch.tensor([7, 9])


def test_fields_by_name_and_position():
    tensors = [torch.zeros(2, 3, 4, 4), torch.tensor([1, 0]), INDEX, torch.tensor([0, 0])]
    batch = Batch(*tensors)
    assert Batch._fields == ("images", "labels", "index", "view", "spec")
    assert batch.index is tensors[2]
    assert all(a is b for a, b in zip(batch[:4], tensors, strict=True))
    assert batch.spec is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bytes_become_what_torchvision_makes_of_them_bit_for_bit(layout):
    spec = InputSpec(8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 1.0)
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8).to(memory_format=layout)
    before = images.clone()
    moved = on_device(Batch(images, INDEX, INDEX, INDEX, spec), CPU)
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(spec.mean, spec.std)])
    assert torch.equal(moved.images, reference(images))
    assert moved.images.is_contiguous(memory_format=layout)
    assert moved.spec is None
    assert torch.equal(images, before), "a kept batch is used again"


def test_normalised_images_stay_as_they_are():
    images = torch.randn(2, 3, 4, 4)
    moved = on_device(Batch(images, INDEX, INDEX, INDEX), CPU)
    assert torch.equal(moved.images, images)


def test_what_is_looked_up_in_the_bank_stays_on_the_cpu():
    batch = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), INDEX, INDEX, INDEX)
    moved = on_device(batch, torch.device("meta"))
    assert [part.device.type for part in moved[:4]] == ["meta", "meta", "cpu", "cpu"]


@pytest.mark.parametrize(
    ("where", "to", "pinned"), [("cpu", "cuda:0", 1), ("cpu", "mps", 0), ("cuda", "cuda:0", 0)]
)
def test_what_goes_to_a_cuda_device_is_pinned_first(where, to, pinned):
    tensor = MagicMock(device=torch.device(where))
    tensor.pin_memory.return_value.to = tensor.to
    assert sent(tensor, torch.device(to)) is tensor.to.return_value
    assert tensor.pin_memory.call_count == pinned
    tensor.to.assert_called_once_with(torch.device(to), non_blocking=True)
