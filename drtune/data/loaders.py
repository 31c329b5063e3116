"""Batches in a fixed order with fixed augmentations, whatever was drawn before.

The order of an epoch and every augmentation are functions of (seed, epoch, sample id). A loader's items are
asked for by keys (draw, row): the draw travels with the key, so workers that live on from epoch to epoch, an
interrupted training and a bank that replays old draws all see the same pixels.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from drtune.base.runtime import processors
from drtune.base.seeding import derive, generator
from drtune.data.batch import Batch
from drtune.data.packed import PackedSplit
from drtune.data.transforms import InputSpec, Transform

Key = tuple[int, int]
"""(draw, row): the number of the augmentation, and the row of the split."""

Item = tuple[Tensor, int, int, int]
"""(image [3, H, W] uint8, label, row, view)"""

KEPT_BYTES = 512 * 1024**2
"""Batches of a validation split up to this size stay in memory: 3,560 images of 224 px."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with PyTorch's CPU generator seeded, then put its state back."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class Views(Dataset[Item]):
    """A split seen through a transform; items are asked for by (draw, row).

    Args:
        split: packed images.
        transform: of its images.
        seed: of the augmentations; None for a transform that draws nothing.
        replay: whether a draw is a view of the bank (and is reported as such).
    """

    def __init__(self, split: PackedSplit, transform: Transform, seed: int | None, replay: bool) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed
        self.replay = replay

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> Item:
        draw, row = key
        image = self.split.image(row)
        view = draw if self.replay else 0
        label = int(self.split.labels[row])
        if self.seed is None:
            return self.transform.pixels(image), label, row, view
        with seeded(derive(self.seed, "augment", draw, self.split.ids[row])):
            return self.transform.pixels(image), label, row, view


class EpochBatches(Sampler[list[Key]]):
    """Batches of keys for one epoch, shuffled by (seed, epoch).

    Args:
        rows: N.
        batch_size: B.
        drop_last: batches of exactly B, the remainder left out (all N in one batch where N < B); otherwise
            ceil(N/B) batches whose sizes differ by at most one, so that no lone sample upsets batch norm.
        seed: of the order.
        views: draws repeat after this many epochs; None: every epoch draws anew.
    """

    def __init__(self, rows: int, batch_size: int, drop_last: bool, seed: int, views: int | None) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.views = views
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return steps_per_epoch(self.rows, self.batch_size, self.drop_last)

    def __iter__(self) -> Iterator[list[Key]]:
        order = torch.randperm(self.rows, generator=generator(self.seed, "order", self.epoch)).numpy()
        draw = self.epoch if self.views is None else self.epoch % self.views
        if self.drop_last:
            size = min(self.batch_size, self.rows)
            order = order[: size * len(self)]
        for part in np.array_split(order, len(self)):
            yield [(draw, row) for row in part.tolist()]


def steps_per_epoch(rows: int, batch_size: int, drop_last: bool) -> int:
    """Number of batches of one epoch of `rows` samples (see `EpochBatches`)."""
    return max(rows // batch_size, 1) if drop_last else math.ceil(rows / batch_size)


def set_epoch(loader: Any, epoch: int) -> None:
    """Choose the epoch (from 0) that the next pass over a train loader yields.

    Accelerate's prepared loaders count their own passes and overwrite the batch sampler's epoch with that
    count, so a resumed training must tell the loader itself.
    """
    (loader if hasattr(loader, "set_epoch") else loader.batch_sampler).set_epoch(epoch)


class InOrder(Sampler[list[Key]]):
    """Batches of keys in row order, all of one draw; the last may be short."""

    def __init__(self, rows: int, batch_size: int, draw: int) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.draw = draw

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, self.rows, self.batch_size):
            stop = min(start + self.batch_size, self.rows)
            yield [(self.draw, row) for row in range(start, stop)]


def train_loader(
    split: PackedSplit,
    transform: Transform,
    *,
    batch_size: int,
    drop_last: bool,
    seed: int,
    workers: int,
    replay: tuple[int, int] | None,
) -> DataLoader[Batch]:
    """Shuffled, augmented batches; call `set_epoch(loader, epoch)` before each epoch.

    Args:
        split: N packed images.
        transform: of their images.
        batch_size: B.
        drop_last: see `EpochBatches`.
        seed: of the order, and of the augmentations where nothing is replayed.
        workers: processes that decode; 0 decodes in this one. The batches do not depend on it.
        replay: (V, seed of the views): epoch e replays view e mod V of a bank made with that seed, and
            `Batch.view` says which; None draws anew in every epoch.
    """
    views, view_seed = replay if replay is not None else (None, seed)
    return loader(
        Views(split, transform, view_seed, replay is not None),
        EpochBatches(len(split), batch_size, drop_last, seed, views),
        workers,
    )


def view_loader(
    split: PackedSplit, transform: Transform, *, batch_size: int, workers: int, view: int, seed: int
) -> DataLoader[Batch]:
    """All rows in order, augmented as view `view`: exactly the tensors that a replaying training sees."""
    return loader(Views(split, transform, seed, True), InOrder(len(split), batch_size, view), workers)


def eval_loader(
    split: PackedSplit, transform: Transform, *, batch_size: int, workers: int
) -> DataLoader[Batch]:
    """All rows in order, through a transform that draws nothing."""
    return loader(Views(split, transform, None, False), InOrder(len(split), batch_size, 0), workers)


class KeptBatches:
    """A loader whose passes are all the same: decoded once, then yielded from memory where they fit.

    Only a pass that was run to its end is kept; who iterates must leave the tensors as they are.

    Args:
        loader: of batches.
        limit: bytes that are kept at most; a larger split is decoded in every pass.
    """

    def __init__(self, loader: Any, limit: int = KEPT_BYTES) -> None:
        self.loader, self.limit = loader, limit
        self.kept: list[Batch] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[Batch] = []
        size = 0
        for batch in undisturbing(self.loader):
            size += sum(part.nbytes for part in batch[:4])
            if size > self.limit:
                kept.clear()
            else:
                kept.append(batch)
            yield batch
        if size <= self.limit:
            self.kept = kept


def undisturbing(loader: Any) -> Iterator[Batch]:
    """The batches of a loader, which may draw seeds for its workers, with the global generator left alone."""
    with seeded(0):
        batches = iter(loader)
    while True:
        with seeded(0):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def loader(views: Views, batches: Sampler[list[Key]], workers: int) -> DataLoader[Batch]:
    """Build a loader that leaves every global generator alone.

    More workers than processors would only bring a warning, so they are capped.
    """
    workers = min(workers, processors())
    items: Dataset[Any] = views  # PyTorch's types do not know that collate turns items into a Batch
    return DataLoader(
        items,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(collate, spec=views.transform.spec),
        generator=torch.Generator().manual_seed(0),  # feeds worker base seeds, which nothing here reads
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def collate(items: Sequence[Any], spec: InputSpec) -> Batch:
    """Stack items into a batch."""
    images, labels, rows, views = zip(*items, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), torch.tensor(rows), torch.tensor(views), spec)
