"""Run a frozen backbone over a split and keep what it says in a feature bank."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from drtune.backbones.zoo import Backbone
from drtune.banks.bank import BankHeader
from drtune.banks.settings import ExtractSettings
from drtune.banks.writer import write_bank
from drtune.base.device import pick_device
from drtune.base.memory import keep_freed_memory
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params
from drtune.data.batch import Batch, on_device
from drtune.data.card import DatasetCard, data_sha256, read_card
from drtune.data.loaders import eval_loader, view_loader
from drtune.data.packed import PackedSplit, Split, open_split
from drtune.data.settings import AugmentSettings
from drtune.data.transforms import InputSpec, describe, eval_transform, train_transform


def bank_identity(
    backbone: Backbone,
    card: DatasetCard,
    extract: ExtractSettings,
    augment: AugmentSettings,
) -> BankHeader:
    """The header that a bank made with these settings has.

    Settings that do not matter stand at rest: without augmented views, `augment` and its seed play no part.
    """
    augmented, chosen = extract.views > 0, backbone.settings
    return BankHeader(
        backbone=json.dumps({"name": chosen.name, "kwargs": chosen.kwargs or {}}, sort_keys=True),
        weights_sha256=backbone.fingerprint,
        data_sha256=data_sha256(card),
        transform=json.dumps(describe(backbone.spec, augment if augmented else None), sort_keys=True),
        views=max(extract.views, 1),
        augmented=augmented,
        augment_seed=extract.seed if augmented else 0,
        dtype=extract.dtype,
        weights=backbone.taken,
    )


def training_views(
    train: PackedSplit, spec: InputSpec, settings: ExtractSettings, augment: AugmentSettings, workers: int
) -> list[DataLoader[Batch]]:
    """One loader per view of a bank: V augmented views as training replays them, or the plain images once."""
    batches = {"batch_size": settings.batch_size, "workers": workers}
    if settings.views == 0:
        return [eval_loader(train, eval_transform(spec), **batches)]
    transform = train_transform(spec, augment)
    return [
        view_loader(train, transform, view=view, seed=settings.seed, **batches)
        for view in range(settings.views)
    ]


def extract_train(
    path: Path,
    dataset: Path,
    backbone: Backbone,
    params: Params,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Write the bank of a packed data set's training split, as `extract`, `augment` and `runtime` say.

    Args:
        path: of the bank, replaced when all is written.
        dataset: folder of the data set.
        backbone: what `backbone` says.
        params: settings.
        progress: called with (images done, images in all), first with (0, images in all).

    Returns:
        Images per second, decoding included.

    Raises:
        BankError: features that are not finite, naming the samples; nothing is left at `path` then.
    """
    extract, augment, runtime = params[ExtractSettings], params[AugmentSettings], params[RuntimeSettings]
    train = open_split(dataset, Split.TRAIN)
    views = training_views(train, backbone.spec, extract, augment, runtime.num_workers)
    if progress is not None:
        progress(0, len(views) * len(train))
    return extract_bank(
        path,
        backbone.encoder,
        views,
        bank_identity(backbone, read_card(dataset), extract, augment),
        train.labels,
        train.ids,
        backbone.feature_dim,
        pick_device(runtime.device),
        progress,
    )


@torch.inference_mode()
def extract_bank(
    path: Path,
    encoder: nn.Module,
    loaders: Sequence[Iterable[Batch]],
    header: BankHeader,
    labels: Tensor,
    ids: Sequence[str],
    dim: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Write the bank of an encoder, which runs in eval mode without gradient.

    Args:
        path: of the bank, replaced when all is written.
        encoder: images [B, 3, H, W] -> [B, D]; moved to `device` and left in the mode it was in.
        loaders: one per view, V in all; `batch.index` says which rows a batch holds.
        header: of the bank; `header.dtype` is how features are stored.
        labels: [N] classes.
        ids: N sample names.
        dim: D.
        device: where the encoder runs.
        progress: called with (images done, images in all) after each batch.

    Returns:
        Images per second, decoding included.

    Raises:
        BankError: features that are not finite, naming the samples; nothing is left at `path` then.
    """
    keep_freed_memory()
    training = encoder.training
    encoder.to(device).eval()
    total, done, start = len(loaders) * len(ids), 0, time.perf_counter()
    try:
        with write_bank(path, header, labels, ids, dim) as writer:
            for view, loader in enumerate(loaders):
                for batch in loader:
                    features = encoder(on_device(batch, device).images)
                    writer.write(view, batch.index.cpu(), features.cpu())
                    done += len(batch.index)
                    if progress is not None:
                        progress(done, total)
    finally:
        encoder.train(training)
    return done / (time.perf_counter() - start)
