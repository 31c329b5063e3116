"""Batches are functions of (seed, epoch, sample id): order, augmentation, workers, interruption, replay."""

import math
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from drtune.data.batch import on_device
from drtune.data.loaders import (
    EpochBatches,
    KeptBatches,
    eval_loader,
    processors,
    seeded,
    set_epoch,
    steps_per_epoch,
    train_loader,
    view_loader,
)
from drtune.data.packed import PackedSplit, write_split
from drtune.data.settings import AugmentSettings
from drtune.data.transforms import InputSpec, eval_transform, train_transform
from drtune.sources.samples import png_bytes

CPU = torch.device("cpu")
SPEC = InputSpec(8, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
AUGMENT = AugmentSettings(
    crop_area=[0.3, 1.0],
    crop_ratio=[0.8, 1.2],
    horizontal_flip=0.5,
    rotation=10.0,
    shift=0.1,
    color_jitter=0.3,
    blur=0.0,
)
N = 11


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "train.arrow"
    pixels = np.random.default_rng(0).integers(0, 256, (N, 10, 12, 3), dtype=np.uint8)
    write_split(path, [(f"id{row}", png_bytes(pixels[row]), row % 3) for row in range(N)])
    return PackedSplit(path)


def training(split, *, seed=0, workers=0, batch_size=4, drop_last=False, replay=None):
    return train_loader(
        split,
        train_transform(SPEC, AUGMENT),
        batch_size=batch_size,
        drop_last=drop_last,
        seed=seed,
        workers=workers,
        replay=replay,
    )


def epoch(loader, number):
    set_epoch(loader, number)
    return list(loader)


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one[:4], two[:4], strict=True)
    )


def by_row(batches):
    return {
        int(row): image for batch in batches for row, image in zip(batch.index, batch.images, strict=True)
    }


def test_batches_hold_what_they_say(split):
    batches = epoch(training(split), 0)
    assert sorted(int(row) for batch in batches for row in batch.index) == list(range(N))
    for batch in batches:
        assert batch.images.shape[1:] == (3, 8, 8)
        assert batch.images.dtype == torch.uint8
        assert batch.spec == SPEC
        assert on_device(batch, CPU).images.dtype == torch.float32
        assert batch.labels.tolist() == [row % 3 for row in batch.index.tolist()]
        assert batch.labels.dtype == batch.index.dtype == batch.view.dtype == torch.int64
        assert batch.view.tolist() == [0] * len(batch.view)


def test_same_seed_same_batches_other_seed_others(split):
    assert equal(epoch(training(split), 3), epoch(training(split), 3))
    assert not equal(epoch(training(split), 3), epoch(training(split, seed=1), 3))


def test_epochs_differ_in_order_and_pixels(split):
    loader = training(split)
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert [b.index.tolist() for b in first] != [b.index.tolist() for b in second]
    assert not any(torch.equal(by_row(first)[row], by_row(second)[row]) for row in range(N))


def test_a_resumed_epoch_equals_an_uninterrupted_one(split):
    loader = training(split)
    through = [epoch(loader, number) for number in range(3)][2]
    torch.manual_seed(99)  # a fresh process has another global state
    assert equal(epoch(training(split), 2), through)


def test_a_loader_prepared_by_accelerate_yields_the_epoch_asked_for(split):
    # its own count of passes is 0 after a resumption, whatever the epoch
    prepared = Accelerator(cpu=True).prepare(training(split))
    for number in (5, 6, 2):
        assert equal(epoch(prepared, number), epoch(training(split), number))


def test_augmentation_does_not_depend_on_batch_size(split):
    small, large = by_row(epoch(training(split), 1)), by_row(epoch(training(split, batch_size=11), 1))
    assert all(torch.equal(small[row], large[row]) for row in range(N))


def test_workers_give_the_same_batches_in_every_epoch(split):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        many = training(split, workers=2)
        both = [epoch(many, 0), epoch(many, 1)]
    assert equal(both[0], epoch(training(split), 0))
    assert equal(both[1], epoch(training(split), 1))


def test_global_generators_are_left_alone(split):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    epoch(training(split), 0)
    list(eval_loader(split, eval_transform(SPEC), batch_size=4, workers=0))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_seeded_restores_after_a_fault():
    state = torch.get_rng_state()

    def draw_and_fail():
        with seeded(3):
            torch.rand(5)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), state)


def test_replay_repeats_views_and_reports_them(split):
    loader = training(split, replay=(2, 7))
    epochs = [epoch(loader, number) for number in range(4)]
    assert [sorted({int(v) for b in batches for v in b.view}) for batches in epochs] == [[0], [1], [0], [1]]
    first, third = by_row(epochs[0]), by_row(epochs[2])
    assert all(torch.equal(first[row], third[row]) for row in range(N))
    assert [b.index.tolist() for b in epochs[0]] != [b.index.tolist() for b in epochs[2]]
    assert not torch.equal(first[0], by_row(epochs[1])[0])


@pytest.mark.parametrize("view", [0, 1])
def test_view_loader_gives_the_tensors_that_training_replays(split, view):
    views = list(
        view_loader(split, train_transform(SPEC, AUGMENT), batch_size=4, workers=0, view=view, seed=7)
    )
    assert torch.cat([batch.index for batch in views]).tolist() == list(range(N))
    assert torch.cat([batch.view for batch in views]).tolist() == [view] * N
    replayed = by_row(epoch(training(split, seed=3, replay=(2, 7)), view))
    assert all(torch.equal(by_row(views)[row], replayed[row]) for row in range(N))


def test_eval_loader_is_the_split_in_order(split):
    batches = list(eval_loader(split, eval_transform(SPEC), batch_size=4, workers=0))
    assert [len(batch.labels) for batch in batches] == [4, 4, 3]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(N))
    assert torch.equal(on_device(batches[1], CPU).images[2], eval_transform(SPEC)(split.image(6)))
    assert len(eval_loader(split, eval_transform(SPEC), batch_size=4, workers=0)) == 3


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("rows", "size"), [(11, 4), (12, 4), (9, 8), (3, 8), (1, 1), (64, 64), (65, 64)])
def test_batch_sizes(rows, size, drop_last):
    sampler = EpochBatches(rows, size, drop_last, 0, None)
    batches = list(sampler)
    sizes = [len(batch) for batch in batches]
    assert len(batches) == len(sampler) == steps_per_epoch(rows, size, drop_last)
    assert len({key for batch in batches for key in batch}) == sum(sizes)
    if drop_last:
        assert set(sizes) == {min(rows, size)}
        assert len(sizes) == max(rows // size, 1)
    else:
        assert sum(sizes) == rows
        assert len(sizes) == math.ceil(rows / size)
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1


def test_workers_are_capped_at_the_processors(split):
    loader = eval_loader(split, eval_transform(SPEC), batch_size=4, workers=10_000)
    assert loader.num_workers == processors() <= (os.cpu_count() or 1)


def test_items_survive_pickling(split):
    # start methods other than fork rebuild the data set from its pickle
    views = training(split).dataset
    copy = pickle.loads(pickle.dumps(views))
    assert torch.equal(copy[(1, 3)][0], views[(1, 3)][0])
    assert copy[(1, 3)][1:] == (0, 3, 0)


class Counted:
    """A loader that counts the batches it was asked for."""

    def __init__(self, batches):
        self.batches, self.asked = batches, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.asked += 1
            yield batch


@pytest.fixture
def counted(split):
    return Counted(list(eval_loader(split, eval_transform(SPEC), batch_size=4, workers=0)))


def same(found, expected):
    pairs = zip(found, expected, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one[:4], other[:4], strict=True))


def test_a_pass_that_fits_is_asked_for_once(counted):
    kept = KeptBatches(counted)
    assert len(kept) == len(counted) == 3
    assert all(same(kept, counted.batches) for _ in range(3))
    assert counted.asked == 3


def test_a_pass_over_the_limit_is_decoded_anew_and_not_held(counted):
    size = sum(part.nbytes for batch in counted.batches for part in batch[:4])
    for limit, asked in ((size, 3), (size - 1, 6)):
        counted.asked = 0
        kept = KeptBatches(counted, limit)
        assert same(kept, counted.batches)
        assert same(kept, counted.batches)
        assert counted.asked == asked
    assert kept.kept is None


def test_no_pass_draws_from_the_global_generator(counted):
    kept = KeptBatches(
        torch.utils.data.DataLoader(counted.batches, batch_size=None)
    )  # draws a seed for workers
    before = torch.default_generator.get_state()
    for _ in range(2):
        assert same(kept, counted.batches)
        assert torch.equal(torch.default_generator.get_state(), before)


def test_a_pass_that_was_left_early_is_not_kept(counted):
    kept = KeptBatches(counted)
    next(iter(kept))
    assert same(kept, counted.batches)
