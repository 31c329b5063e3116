"""The last K pairs of features that a training has seen."""

import torch
from torch import Tensor, nn


class Ring(nn.Module):
    """First in, first out: K pairs (pretrained, downstream) of features with their labels.

    Item number j ever pushed (from 0) stands in slot j mod K. Pushing never waits for the device.

    Args:
        pretrained: [K, D] first rows, K >= 1; copied, as the others are.
        downstream: [K, D].
        labels: [K] int64.

    Attributes:
        next: slot of the next pair.
    """

    pretrained: Tensor
    downstream: Tensor
    labels: Tensor
    next: Tensor

    def __init__(self, pretrained: Tensor, downstream: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.register_buffer("pretrained", pretrained.clone())
        self.register_buffer("downstream", downstream.clone())
        self.register_buffer("labels", labels.clone())
        self.register_buffer("next", labels.new_zeros(()))

    def __len__(self) -> int:
        """K."""
        return len(self.labels)

    def turn(self, step: int, rows: int | None) -> slice:
        """The slots whose turn it is: at most `rows` of them, evenly spaced; each has one turn in a round.

        None takes all in every step, and so does a number that is not below K.
        """
        steps = 1 if rows is None else max(1, -(-len(self) // rows))
        return slice(step % steps, None, steps)

    @torch.no_grad()
    def push(self, pretrained: Tensor, downstream: Tensor, labels: Tensor) -> None:
        """Take in B pairs, each over the oldest; of more than K only the last K count.

        Args:
            pretrained: [B, D].
            downstream: [B, D].
            labels: [B].
        """
        skipped = max(len(labels) - len(self), 0)
        slots = (self.next + torch.arange(skipped, len(labels), device=labels.device)) % len(self)
        pairs = ((self.pretrained, pretrained), (self.downstream, downstream), (self.labels, labels))
        for table, rows in pairs:
            table.index_copy_(0, slots, rows[skipped:].to(table.dtype))
        self.next.add_(len(labels)).remainder_(len(self))
