"""The last K keys that a training has seen of each class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ClassQueues(nn.Module):
    """First in, first out: for each of C classes K keys, each of them a row in every table.

    Row number j ever pushed of a class (from 0) stands in its slot j mod K. Nothing loops over classes or
    waits for the device.

    Args:
        num_classes: C.
        capacity: K >= 1.
        widths: D of each table.
        device: where the tables live.

    Attributes:
        pushed: [C] int64 rows ever pushed by class.
    """

    pushed: Tensor

    def __init__(self, num_classes: int, capacity: int, widths: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self.capacity, self.names = capacity, [f"table{number}" for number in range(len(widths))]
        for name, width in zip(self.names, widths, strict=True):
            self.register_buffer(name, torch.zeros(num_classes, capacity, width, device=device))
        self.register_buffer("pushed", torch.zeros(num_classes, dtype=torch.int64, device=device))

    @property
    def tables(self) -> list[Tensor]:
        """Each [C, K, D] float32; slots that are not filled hold zeros."""
        return [self.get_buffer(name) for name in self.names]

    @property
    def filled(self) -> Tensor:
        """[C, K] mask of the slots that hold a key."""
        return torch.arange(self.capacity, device=self.pushed.device) < self.pushed[:, None]

    def filled_of(self, labels: Tensor) -> Tensor:
        """[B, C, K] mask of the filled slots of each label's own class, for labels [B]."""
        classes = torch.arange(len(self.pushed), device=labels.device)
        return (labels[:, None] == classes)[:, :, None] & self.filled

    @torch.no_grad()
    def push(self, rows: Sequence[Tensor], labels: Tensor) -> None:
        """Put each row over the oldest of its class; of more than K in one class only the last K stay.

        Args:
            rows: for each table [B, D].
            labels: [B].
        """
        classes, capacity = len(self.pushed), self.capacity
        same = labels[:, None] == labels
        slot = labels * capacity + (self.pushed[labels] + same.tril(-1).sum(dim=1)) % capacity
        # Rows that mean the same slot all write the last of them, so that their order does not matter.
        index = torch.arange(max(classes, len(labels)), device=labels.device)
        last = ((slot[:, None] == slot) * index[: len(labels)]).amax(dim=1)
        for table, fresh in zip(self.tables, rows, strict=True):
            table.view(classes * capacity, -1)[slot] = fresh[last].float()
        self.pushed += (labels[:, None] == index[:classes]).sum(dim=0)
