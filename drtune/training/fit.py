"""Put data, backbone, bank and method together and train: what the train stage and every trial call."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from drtune.backbones.classifier import Classifier, init_head
from drtune.backbones.predictions import predict
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import Backbone, build_backbone
from drtune.banks.bank import FeatureBank, open_bank
from drtune.banks.extract import bank_identity
from drtune.banks.settings import ExtractSettings
from drtune.base.device import pick_device
from drtune.base.errors import BankError, TrainingError
from drtune.base.memory import keep_freed_memory
from drtune.base.numeric import set_numeric_state
from drtune.base.runtime import RuntimeSettings
from drtune.base.seeding import generator
from drtune.base.settings import Params
from drtune.data.batch import Batch
from drtune.data.card import DatasetCard, read_card
from drtune.data.loaders import eval_loader, steps_per_epoch, train_loader
from drtune.data.packed import Split, open_split
from drtune.data.settings import AugmentSettings
from drtune.data.transforms import InputSpec, eval_transform, train_transform
from drtune.training.checkpoint import Progress
from drtune.training.contract import load_method
from drtune.training.hardware import pick_precision, refuse_too_large
from drtune.training.head_start import bank_rows, solve_head
from drtune.training.loop import Hooks, Trainer
from drtune.training.settings import TrainSettings
from drtune.training.validation import validation_scores

SMALLEST_SQUARE = 1e-12
"""Stands in for the squared length of features that are all zero."""


@dataclass(frozen=True)
class Fitted:
    """A finished training.

    Attributes:
        model: classifier with the weights of the epoch that is kept.
        backbone: the encoder it came from and the input it expects.
        card: the data set it was trained on.
        progress: history, and which epoch is kept.
    """

    model: Classifier
    backbone: Backbone
    card: DatasetCard
    progress: Progress


def fit(params: Params, dataset: Path, bank: Path, hooks: Hooks) -> Fitted:
    """Train `train.method` on the training split and choose the epoch on the validation split.

    Args:
        params: settings, read together with those of every method.
        dataset: folder of the packed data set.
        bank: file of the feature bank; may be absent for methods that need none.
        hooks: reports and checkpoints.

    Raises:
        ConfigError: a device that is not there, or a precision that it does not compute.
        BankError: a bank made from other data, weights or transforms.
        TrainingError: batches of one image under batch norm in train mode; a loss that is not finite.
        ShortageError: a model too large for the GPU.
    """
    settings, runtime = params[TrainSettings], params[RuntimeSettings]
    device = pick_device(runtime.device)
    settings = settings.model_copy(update={"precision": pick_precision(settings.precision, device)})
    keep_freed_memory()
    set_numeric_state(settings.seed, runtime.num_threads, deterministic=settings.deterministic)
    card = read_card(dataset)
    backbone = build_backbone(params[BackboneSettings])
    features = checked_bank(params, card, backbone, bank)
    method = load_method(settings.method)(params.method(settings.method), settings)
    if method.trains == "all":
        refuse_lone_images(settings, backbone.encoder, card.counts[Split.TRAIN])
    model = backbone.classifier(len(card.classes))
    if method.trains == "all":
        refuse_too_large(model, settings, device)
    train, val = loaders(params, dataset, backbone.spec, features)
    settings, start = set_start(model, settings, features, val, device)
    if runtime.compile:
        model.encoder.compile()  # in place, so the names in its state_dict stay
    trainer = Trainer(model, method, features, train, val, settings, hooks, start, device)
    progress = trainer.run()
    model.load_state_dict(progress.best_state)
    return Fitted(model, backbone, card, progress)


def loaders(
    params: Params, dataset: Path, spec: InputSpec, bank: FeatureBank | None
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Batches of the training and of the validation split; a bank of augmented views is replayed."""
    settings, workers, replay = params[TrainSettings], params[RuntimeSettings].num_workers, None
    if bank is not None and bank.header.augmented:
        replay = (bank.header.views, bank.header.augment_seed)
    train = train_loader(
        open_split(dataset, Split.TRAIN),
        train_transform(spec, params[AugmentSettings]),
        batch_size=settings.batch_size,
        drop_last=settings.drop_last,
        seed=settings.seed,
        workers=workers,
        replay=replay,
    )
    val = open_split(dataset, Split.VAL)
    batch_size = 4 * settings.batch_size
    return train, eval_loader(val, eval_transform(spec), batch_size=batch_size, workers=workers)


def set_start(
    model: Classifier,
    settings: TrainSettings,
    bank: FeatureBank | None,
    val: Iterable[Batch],
    device: torch.device,
) -> tuple[TrainSettings, dict[str, Any] | None]:
    """Set the head's first weights, and its learning rate where that is given per squared feature length.

    Returns:
        The settings with the absolute rate, and for a solved head the history record of epoch 0, which may
        be chosen like any other epoch; else None.

    Raises:
        BankError: a start that needs the bank, and there is none.
    """
    relative, solved = settings.lr_head_unit == "feature", settings.head_init == "bank"
    if relative or solved:
        if bank is None:
            setting = "lr_head_unit: feature" if relative else "head_init: bank"
            need = f"train.{setting} needs the feature bank, and there is none"
            raise BankError(f"{need}; run `dvc repro extract`")
        features, labels = bank_rows(bank, settings.seed)
    if relative:
        rate = settings.lr_head / max(float(features.square().sum(dim=1).mean()), SMALLEST_SQUARE)
        settings = settings.model_copy(update={"lr_head": rate})
    if not solved:
        init_head(model.head, settings.head_init, generator(settings.seed, "head"))
        return settings, None
    before = predict(model.to(device), val, device)
    classes, scale = model.num_classes, settings.head_scale
    head = solve_head(features, labels, before.features, before.labels, classes, scale)
    model.head.load_state_dict({"weight": head.weight, "bias": head.bias})
    logits = before.features @ head.weight.T + head.bias
    scores = validation_scores(before._replace(logits=logits))
    record = {"epoch": 0, "train_loss": round(head.train_loss, 6)}
    return settings, record | {f"val_{name}": value for name, value in scores.items()}


def refuse_lone_images(settings: TrainSettings, encoder: nn.Module, rows: int) -> None:
    """Refuse batches of a single image where batch norm would normalise by it."""
    smallest = rows // steps_per_epoch(rows, settings.batch_size, settings.drop_last)
    normalised = any(isinstance(module, _BatchNorm) for module in encoder.modules())
    if smallest == 1 and normalised and settings.batch_norm != "eval":
        raise TrainingError(
            f"train.batch_size {settings.batch_size} makes batches of a single one of the {rows} training "
            f"images, and batch_norm: {settings.batch_norm} normalises by the batch; take at least 2 images "
            "each, or batch_norm: eval (under train, and under the method where that has its own)"
        )


def checked_bank(params: Params, card: DatasetCard, backbone: Backbone, path: Path) -> FeatureBank | None:
    """Open the bank and make sure that it belongs to this data, these weights and these transforms."""
    if not path.is_file():
        return None
    bank = open_bank(path)
    bank.require(bank_identity(backbone, card, params[ExtractSettings], params[AugmentSettings]))
    return bank
