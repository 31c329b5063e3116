"""The last K pairs of features that a training has seen."""

from collections.abc import Mapping

import torch
from torch import Tensor

from drtune.training.losses import unit_rows


class RingBank:
    """First in, first out: K pairs (pretrained, downstream) of features with their labels.

    Item number j ever pushed (from 0) stands in slot j mod K. Pushing never waits for the device.

    Args:
        capacity: K >= 1.
        dim: D.
        device: where the K x D x 2 float32 values live.
        normalize: keep a copy of the rows at unit length as well, so that no step scales all K anew.
    """

    def __init__(self, capacity: int, dim: int, device: torch.device, *, normalize: bool) -> None:
        self._pretrained = torch.zeros(capacity, dim, device=device)
        self._downstream = torch.zeros(capacity, dim, device=device)
        self._labels = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._units = torch.zeros(2, capacity, dim, device=device) if normalize else None
        self.capacity = capacity
        self._next = 0
        self._filled = 0

    def __len__(self) -> int:
        """Number of filled slots."""
        return self._filled

    @property
    def pretrained(self) -> Tensor:
        """[filled, D] float32, in slot order."""
        return self._pretrained[: self._filled]

    @property
    def downstream(self) -> Tensor:
        """[filled, D] float32, in slot order."""
        return self._downstream[: self._filled]

    @property
    def units(self) -> tuple[Tensor, Tensor]:
        """Pretrained and downstream rows [filled, D] at unit length (zeros stay zero), if so asked for."""
        assert self._units is not None
        return self._units[0, : self._filled], self._units[1, : self._filled]

    @property
    def labels(self) -> Tensor:
        """[filled] int64, in slot order."""
        return self._labels[: self._filled]

    def turn(self, step: int, rows: int | None) -> slice:
        """The slots whose turn it is: at most `rows` of them, evenly spaced; each has one turn in a round.

        None takes all in every step, and so does a number that is not below the filled slots.
        """
        steps = 1 if rows is None else max(1, -(-self._filled // rows))
        return slice(step % steps, None, steps)

    def push(self, pretrained: Tensor, downstream: Tensor, labels: Tensor) -> None:
        """Take in B pairs, each over the oldest; of more than K only the last K count.

        Args:
            pretrained: [B, D].
            downstream: [B, D]; kept without gradient.
            labels: [B].
        """
        count = len(labels)
        skipped = max(count - self.capacity, 0)
        start = (self._next + skipped) % self.capacity
        until_end = min(count - skipped, self.capacity - start)
        pairs = [(self._pretrained, pretrained), (self._downstream, downstream), (self._labels, labels)]
        if self._units is not None:
            pairs += [(self._units[0], unit_rows(pretrained)), (self._units[1], unit_rows(downstream))]
        for slots, rows in pairs:
            kept = rows.detach()[skipped:]
            slots[start : start + until_end] = kept[:until_end]
            slots[: len(kept) - until_end] = kept[until_end:]
        self._next = (self._next + count) % self.capacity
        self._filled = min(self._filled + count, self.capacity)

    def state_dict(self) -> dict[str, Tensor]:
        """All slots, and where the next pair goes."""
        return {
            "pretrained": self._pretrained,
            "downstream": self._downstream,
            "labels": self._labels,
            "next": torch.tensor(self._next),
            "filled": torch.tensor(self._filled),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned, from a ring of the same size."""
        for slots, name in (
            (self._pretrained, "pretrained"),
            (self._downstream, "downstream"),
            (self._labels, "labels"),
        ):
            slots.copy_(state[name])
        if self._units is not None:
            self._units.copy_(torch.stack([unit_rows(self._pretrained), unit_rows(self._downstream)]))
        self._next, self._filled = int(state["next"]), int(state["filled"])
