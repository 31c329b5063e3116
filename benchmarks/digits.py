"""Few-shot digits: each method from the embedded backbone, and plain fine-tuning from random weights.

    python -m benchmarks.digits            (in the project folder, after `make repro`)

A row is the mean and the standard deviation of test accuracy over seeds; a seed changes the cut of the data
with its few training images, the head, the order and the augmentation. All else is params.yaml, for every
row; the epoch is chosen on validation. Plain fine-tuning has several settings, of which validation chooses.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.ablation import CONVERTED, PLAIN, SCALED
from benchmarks.harness import changed, make_task, seeded, test_scores, train, validation
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import completed
from drtune.base.files import write_json
from drtune.base.yaml import read_yaml
from drtune.params import load

EMBEDDED = completed(load(Path("params.yaml"))[BackboneSettings])
RANDOM: dict[str, Any] = {f"backbone.{key}": value for key, value in EMBEDDED.model_dump().items()}
RANDOM["backbone.weights"] = "catalog/random.yaml"
SGD: dict[str, Any] = {"train.optimizer": "sgd", "train.batch_norm": "train"}
SGD |= {"train.lr_head_unit": "absolute", "train.lr_head": 0.05}
ROWS: dict[str, list[dict[str, Any]]] = {
    "DR-Tune": [{"train.method": "dr_tune"}],
    "plain fine-tuning from the same start": [PLAIN | CONVERTED | SCALED],
    "plain fine-tuning": [
        PLAIN,
        PLAIN | CONVERTED,
        *(PLAIN | SGD | {"train.lr_backbone": rate} for rate in (0.01, 0.03)),
    ],
    "linear probe": [{"train.method": "linear_probe"}],
    "plain fine-tuning from random weights": [
        RANDOM | PLAIN | SGD | {"train.lr_backbone": rate} for rate in (0.03, 0.1, 0.3)
    ],
}
"""Row -> settings to try; where there are several, validation accuracy (then loss) chooses."""


def accuracies(raw: Mapping[str, Any], trials: list[dict[str, Any]], seeds: int) -> list[float]:
    """Test accuracy of the trial that validation chose, one number a seed."""
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            settings = [changed(raw, trial | seeded(seed)) for trial in trials]
            task = make_task(settings[0], Path(folder))
            best = max((train(params, task) for params in settings), key=validation)
            found.append(test_scores(settings[0], task, best)["accuracy"])
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
