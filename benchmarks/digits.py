"""Few-shot digits: each method from the embedded backbone, and plain fine-tuning from random weights.

    python -m benchmarks.digits            (in the project folder, after `make repro`)

A row is the mean and the standard deviation of test accuracy over seeds; a seed changes the cut of the data
with its few training images, the head, the order and the augmentation. All else is params.yaml, for every
row; the epoch is chosen on validation. Plain fine-tuning has several settings, of which validation chooses.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.ablation import CONVERTED, PLAIN, SCALED
from benchmarks.harness import (
    arguments,
    changed,
    each_once,
    make_task,
    seeded,
    test_scores,
    train,
    validation,
)
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import completed
from drtune.base.files import write_json
from drtune.base.yaml import read_yaml

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
        {"backbone.weights": "catalog/random.yaml"} | PLAIN | SGD | {"train.lr_backbone": rate}
        for rate in (0.03, 0.1, 0.3)
    ],
}
"""Row -> settings to try; where there are several, validation accuracy (then loss) chooses."""


def architecture(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What the shipped weights record of themselves, as settings: random weights record nothing."""
    settings = completed(changed(raw, {})[BackboneSettings]).model_dump(exclude={"weights"})
    return {f"backbone.{key}": value for key, value in settings.items()}


def accuracy(raw: Mapping[str, Any], trials: list[dict[str, Any]], seed: int) -> dict[str, float]:
    """Test accuracy of the trial that validation chose."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [changed(raw, trial | seeded(seed)) for trial in trials]
        task = make_task(settings[0], Path(folder))
        best = max((train(params, task) for params in settings), key=validation)
        return {"test_accuracy": test_scores(settings[0], task, best)["accuracy"]}


def result(out: Path, row: str, seed: int) -> Path:
    """Where the result of a row with a seed lies."""
    return out / "digits" / f"{row.lower().replace(' ', '_').replace('-', '_')}-{seed}.json"


def main() -> None:
    """Run what has no record yet, then the table."""
    parser = arguments(str(__doc__))
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    given = parser.parse_args()
    raw = read_yaml(Path("params.yaml"))
    shipped = architecture(raw)
    calls = {
        result(given.out, row, seed): (raw, [shipped | trial for trial in trials], seed)
        for row, trials in ROWS.items()
        for seed in range(given.seeds)
    }
    found = iter(each_once(accuracy, calls))
    table = {}
    for row in ROWS:
        values = [next(found)["test_accuracy"] for _ in range(given.seeds)]
        table[row] = {"mean": round(mean(values), 4), "std": round(stdev(values), 4), "test_accuracy": values}
        print(f"{row:<46} {100 * mean(values):5.1f} ± {100 * stdev(values):.1f}   n = {given.seeds} seeds")
    shots = raw["data"]["shots"]
    write_json(given.out / "digits.json", {"shots": shots, "seeds": given.seeds, "rows": table})


if __name__ == "__main__":
    main()
