"""Few-shot digits: each method from the embedded backbone, and plain fine-tuning from random weights.

    python benchmarks/digits.py            (in the project folder, after `make repro`)

A row is the mean and the standard deviation of test accuracy over seeds; a seed changes the cut of the data
with its few training images, the head, the order and the augmentation. All else is params.yaml, for every
row; the epoch is chosen on validation. The last row's learning rate was chosen on validation from three.
"""

import argparse
import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from drtune.backbones.zoo import build_backbone, completed
from drtune.banks.extract import bank_identity, extract_bank, training_views
from drtune.config import (
    AugmentSettings,
    BackboneSettings,
    DataSettings,
    EvaluateSettings,
    ExtractSettings,
    Params,
    load,
    parse,
    read_yaml,
)
from drtune.data.card import read_card
from drtune.data.ingest import ingest
from drtune.data.packed import Split, open_split
from drtune.evaluation import pick_device
from drtune.files import write_json
from drtune.methods import SETTINGS
from drtune.training.fit import fit
from drtune.training.loop import Hooks
from pipeline.evaluate import measure_test

EMBEDDED = completed(load(Path("params.yaml"))[BackboneSettings])
RANDOM: dict[str, Any] = {f"backbone.{key}": value for key, value in EMBEDDED.model_dump().items()}
RANDOM |= {"backbone.weights": "none", "train.method": "finetune"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "DR-Tune": [{"train.method": "dr_tune"}],
    "plain fine-tuning": [{"train.method": "finetune"}],
    "linear probe": [{"train.method": "linear_probe"}],
    "plain fine-tuning from random weights": [RANDOM],
    "the same, learning rate chosen on validation": [
        RANDOM | {"train.lr_backbone": rate} for rate in (0.03, 0.1, 0.3)
    ],
}
"""Row -> settings to try; where there are several, validation accuracy (then loss) chooses."""


def changed(raw: Mapping[str, Any], change: Mapping[str, Any]) -> Params:
    """Settings with dotted names replaced."""
    fresh = copy.deepcopy(dict(raw))
    for name, value in change.items():
        section, key = name.split(".", 1)
        fresh[section][key] = value
    return parse(fresh, "params.yaml", SETTINGS)


def seeded(seed: int) -> dict[str, Any]:
    """The settings that a seed changes."""
    return {"data.seed": seed, "train.seed": seed, "backbone.seed": seed}


def train(params: Params, folder: Path) -> tuple[tuple[float, float], Any]:
    """Data, bank, model; returns validation (accuracy, -loss) of the kept epoch and the fitted model."""
    card = ingest(params[DataSettings], folder / "dataset", folder)
    backbone, extract = build_backbone(params[BackboneSettings]), params[ExtractSettings]
    augment, split = params[AugmentSettings], open_split(folder / "dataset", Split.TRAIN)
    header = bank_identity(backbone, read_card(folder / "dataset"), extract, augment)
    views = training_views(split, backbone.spec, extract, augment)
    device = pick_device(extract.device)
    bank = folder / "bank.safetensors"
    extract_bank(bank, backbone.encoder, views, header, split.labels, split.ids, backbone.feature_dim, device)
    fitted = fit(params, folder / "dataset", bank, Hooks())
    best = fitted.progress.history[fitted.progress.best_epoch - 1]
    assert fitted.card == card
    return (best["val_accuracy"], -best["val_loss"]), fitted


def accuracies(raw: Mapping[str, Any], trials: list[dict[str, Any]], seeds: int) -> list[float]:
    """Test accuracy of the trial that validation chose, one number a seed."""
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            results = [train(changed(raw, trial | seeded(seed)), place) for trial in trials]
            _, fitted = max(results, key=lambda result: result[0])
            settings = changed(raw, {})[EvaluateSettings]
            _, _, scores = measure_test(fitted.model, place / "dataset", fitted.backbone.spec, settings)
        found.append(scores["accuracy"])
    return found


def main() -> None:
    """Run every row and write benchmarks/digits.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    raw = read_yaml(Path("params.yaml"))
    table = {}
    for row, trials in ROWS.items():
        values = accuracies(raw, trials, seeds)
        table[row] = {"mean": round(mean(values), 4), "std": round(stdev(values), 4), "test_accuracy": values}
        print(
            f"{row:<46} {100 * mean(values):5.1f} ± {100 * stdev(values):.1f}   n = {seeds} seeds", flush=True
        )
    write_json(Path("benchmarks/digits.json"), {"shots": raw["data"]["shots"], "seeds": seeds, "rows": table})


if __name__ == "__main__":
    main()
