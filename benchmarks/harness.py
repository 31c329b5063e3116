"""What the accuracy benchmarks share: settings with changes, one training, one opening of the test split."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from drtune.backbones.zoo import build_backbone
from drtune.banks.extract import bank_identity, extract_bank, training_views
from drtune.config import (
    AugmentSettings,
    BackboneSettings,
    DataSettings,
    EvaluateSettings,
    ExtractSettings,
    Params,
    parse,
)
from drtune.data.ingest import ingest
from drtune.data.packed import Split, open_split
from drtune.evaluation import pick_device
from drtune.methods import SETTINGS
from drtune.training.fit import Fitted, fit
from drtune.training.loop import Hooks
from pipeline.evaluate import measure_test


class Task(NamedTuple):
    """A packed data set and the bank of its training split."""

    dataset: Path
    bank: Path


def changed(raw: Mapping[str, Any], change: Mapping[str, Any]) -> Params:
    """Settings with dotted names replaced, such as `methods.dr_tune.weight`."""
    fresh = copy.deepcopy(dict(raw))
    for name, value in change.items():
        *sections, key = name.split(".")
        node = fresh
        for section in sections:
            node = node[section]
        node[key] = value
    return parse(fresh, "params.yaml", SETTINGS)


def seeded(seed: int) -> dict[str, int]:
    """The settings that a seed changes: the cut of the data, head, order and augmentation."""
    return {"data.seed": seed, "train.seed": seed, "backbone.seed": seed}


def make_task(params: Params, folder: Path) -> Task:
    """Cut and pack the data, and extract the bank, as the first two stages do."""
    task = Task(folder / "dataset", folder / "bank.safetensors")
    card = ingest(params[DataSettings], task.dataset, folder)
    backbone, extract = build_backbone(params[BackboneSettings]), params[ExtractSettings]
    augment, split = params[AugmentSettings], open_split(task.dataset, Split.TRAIN)
    extract_bank(
        task.bank,
        backbone.encoder,
        training_views(split, backbone.spec, extract, augment),
        bank_identity(backbone, card, extract, augment),
        split.labels,
        split.ids,
        backbone.feature_dim,
        pick_device(extract.device),
    )
    return task


def train(params: Params, task: Task) -> Fitted:
    """One training, its epoch chosen on validation."""
    return fit(params, task.dataset, task.bank, Hooks())


def validation(fitted: Fitted) -> tuple[float, float]:
    """(accuracy, -loss) of the kept epoch: what chooses between trainings."""
    best = fitted.progress.best
    return best["val_accuracy"], -best["val_loss"]


def test_scores(params: Params, task: Task, fitted: Fitted) -> dict[str, float]:
    """Headline numbers on the test split."""
    settings = params[EvaluateSettings]
    return measure_test(fitted.model, task.dataset, fitted.backbone.spec, settings)[2]
