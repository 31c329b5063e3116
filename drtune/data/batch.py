"""The batch that every loader yields and every method reads."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """B samples of one split.

    Attributes:
        images: [B, 3, H, W] float32, normalised for the backbone.
        labels: [B] int64 class indices.
        index: [B] int64 rows of the split, the row order of its feature bank; stays on the CPU.
        view: [B] int64 view of the bank whose augmentation was replayed, 0 where none is; stays on the CPU.
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which has no use here
    view: Tensor
