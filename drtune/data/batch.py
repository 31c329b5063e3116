"""The batch that every loader yields and, once it is on its device, every method reads."""

from typing import NamedTuple

import torch
from torch import Tensor

from drtune.data.transforms import InputSpec, normalise


class Batch(NamedTuple):
    """B samples of one split.

    Attributes:
        images: [B, 3, H, W] float32, normalised for the backbone; uint8 as a loader yields them.
        labels: [B] int64 class indices.
        index: [B] int64 rows of the split, the row order of its feature bank; stays on the CPU.
        view: [B] int64 view of the bank whose augmentation was replayed, 0 where none is; stays on the CPU.
        spec: what bytes are normalised by; None where the images are normalised.
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which has no use here
    view: Tensor
    spec: InputSpec | None = None


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, without a wait: CUDA copies pageable memory only when its queue is done."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Images, normalised, and labels on the device; what is looked up in the bank stays on the CPU."""
    images, labels = (sent(part, device) for part in (batch.images, batch.labels))
    if batch.spec is not None:
        images = normalise(images, batch.spec)
    return batch._replace(images=images, labels=labels, spec=None)
