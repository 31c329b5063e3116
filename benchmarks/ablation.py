"""What each part of DR-Tune brings, against a linear probe and a tuned plain fine-tuning.

    dvc repro benchmarks/dvc.yaml        (what it needs: benchmarks/README.md)

Every row has the same images, augmentation, batches and number of steps; the epoch is chosen on validation
and the test split is opened once a row. `tune` chooses optimiser, rate and batch norm mode of plain
fine-tuning on validation of a cut of its own; the rows of DR-Tune run with the shipped settings as they are.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.harness import (
    Task,
    changed,
    make_task,
    run_all,
    seeded,
    spread,
    test_scores,
    train,
    validation,
)
from drtune.config import Params, read_yaml
from drtune.files import read_json, write_json

RESULTS = Path("benchmarks/results")
TABLE = Path("benchmarks/ablation.json")
PLAIN: dict[str, Any] = {"train.method": "finetune", "train.head_init": "normal"}
SOLVED: dict[str, Any] = {"train.head_init": "bank"}
GRID: list[dict[str, Any]] = [
    {"train.optimizer": optimizer, "train.lr_backbone": rate, "train.batch_norm": mode}
    for optimizer, rate, mode in (
        ("adamw", 0.0003, "eval"),
        ("adamw", 0.001, "train"),
        ("sgd", 0.005, "train"),
        ("sgd", 0.01, "train"),
    )
]
"""What plain fine-tuning is tuned over: the best found for it and for DR-Tune in earlier trials."""


def dr(**parts: Any) -> dict[str, Any]:
    """DR-Tune with some parts changed."""
    settings = {f"methods.dr_tune.{name}": value for name, value in parts.items()}
    return {"train.method": "dr_tune", **SOLVED, **settings}


TUNED = "plain fine-tuning"
PROBE = "linear probe"
FULL = "DR-Tune"
ROWS: dict[str, dict[str, Any]] = {
    PROBE: {"train.method": "linear_probe", **SOLVED},
    TUNED: PLAIN,
    "plain fine-tuning with DR-Tune's settings": PLAIN,
    "plain fine-tuning with DR-Tune's settings from the solved head": PLAIN | SOLVED,
    "DR-Tune without calibration": dr(rotation="off", translation=False),
    "DR-Tune, + rotation": dr(translation=False),
    "DR-Tune, + translation": dr(rotation="off", confidence="off"),
    "DR-Tune, + translation, confidence": dr(rotation="off"),
    FULL: dr(),
}


def cut(name: str, shots: str, seed: int) -> dict[str, Any]:
    """The settings that name a set, its size and a seed."""
    few = None if shots == "full" else int(shots)
    return {"data.path": f"benchmarks/images/{name}", "data.shots": few, **seeded(seed)}


def settings(change: Mapping[str, Any]) -> Params:
    """The shipped settings with the changes of all rows and then these."""
    return changed(read_yaml(Path("params.yaml")), read_yaml(Path("benchmarks/params.yaml"))["base"] | change)


def best_on_validation(change: dict[str, Any], task: Task) -> tuple[float, float]:
    """Train and return (accuracy, -loss) on validation."""
    torch.set_num_threads(1)
    return validation(train(settings(change), task))


def on_test(change: dict[str, Any], task: Task) -> dict[str, float]:
    """Train, and measure the kept epoch on the test split."""
    torch.set_num_threads(1)
    params = settings(change)
    fitted = train(params, task)
    best, scores = fitted.progress.best, test_scores(params, task, fitted)
    return {
        "test_accuracy": scores["accuracy"],
        "test_mean_per_class": scores["mean_per_class"],
        "n": scores["n"],
        "val_accuracy": best["val_accuracy"],
        "val_loss": best["val_loss"],
        "epoch": best["epoch"],
    }


def tune(name: str, shots: str, seed: int) -> dict[str, Any]:
    """Try `GRID` for plain fine-tuning on the validation split of one cut."""
    place = cut(name, shots, seed)
    with tempfile.TemporaryDirectory() as folder:
        task = make_task(settings(place), Path(folder))
        scores = run_all(best_on_validation, [(place | ROWS[TUNED] | trial, task) for trial in GRID])
    trials = [
        trial | {"val_accuracy": accuracy, "val_loss": -loss}
        for trial, (accuracy, loss) in zip(GRID, scores, strict=True)
    ]
    chosen = max(range(len(GRID)), key=lambda i: scores[i])
    return {"chosen": GRID[chosen], "seed": seed, "trials": trials}


def compare(name: str, shots: str, seed: int, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Every row on one cut."""
    place = cut(name, shots, seed)
    changes = {row: place | change | (tuned if row == TUNED else {}) for row, change in ROWS.items()}
    different = [change for i, change in enumerate(changes.values()) if change not in [*changes.values()][:i]]
    with tempfile.TemporaryDirectory() as folder:
        task = make_task(settings(place), Path(folder))
        found = run_all(on_test, [(change, task) for change in different])
    return {row: found[different.index(change)] for row, change in changes.items()}


def table(sets: list[str], shots: list[Any], seeds: list[int]) -> dict[str, Any]:
    """Accuracy of each row and its paired differences, by set and size."""
    rows: dict[str, Any] = {}
    for size in shots:
        for name in sets:
            runs = [read_json(result(name, str(size), seed)) for seed in seeds]
            accuracy = {row: [run[row]["test_accuracy"] for run in runs] for row in ROWS}
            rows[f"{name}, {size} a class" if size != "full" else f"{name}, all images"] = {
                row: spread(values)
                | {
                    f"minus {other}": spread([a - b for a, b in zip(values, accuracy[against], strict=True)])
                    for other, against in (("tuned fine-tuning", TUNED), (PROBE, PROBE))
                }
                for row, values in accuracy.items()
            }
    return rows


def result(name: str, shots: str, seed: int) -> Path:
    """Where the results of one cut lie."""
    return RESULTS / f"{name}-{shots}-{seed}.json"


def tuning(name: str, shots: str) -> Path:
    """Where the settings chosen for plain fine-tuning on a set of one size lie."""
    return RESULTS / f"{name}-{shots}-tuned.json"


def show(rows: Mapping[str, Any]) -> None:
    """Print the table as Markdown, and how DR-Tune stands against the better of the two baselines."""
    print("| test accuracy, mean ± standard deviation | " + " | ".join(rows) + " | mean |")
    print("|---" * (len(rows) + 2) + "|")
    for row in ROWS:
        cells = [found[row] for found in rows.values()]
        line = " | ".join(f"{cell['mean']:.1f} ± {cell['std']:.1f}" for cell in cells)
        print(f"| {row} | {line} | {mean(cell['mean'] for cell in cells):.1f} |")
    gains = [found[FULL]["mean"] - max(found[TUNED]["mean"], found[PROBE]["mean"]) for found in rows.values()]
    line = ", ".join(f"{name} {gain:+.1f}" for name, gain in zip(rows, gains, strict=True))
    print(f"\n{FULL} minus the better of `{TUNED}` and `{PROBE}`: {line}; mean {mean(gains):+.1f} points")


def main() -> None:
    """Run `tune`, `compare` or `table`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["tune", "compare", "table"])
    parser.add_argument("--set", default="")
    parser.add_argument("--shots", default="", help="images a class, or full")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    plan = read_yaml(Path("benchmarks/params.yaml"))["ablation"]
    if given.what == "tune":
        write_json(tuning(given.set, given.shots), tune(given.set, given.shots, plan["tuning_seed"]))
    elif given.what == "compare":
        chosen = read_json(tuning(given.set, given.shots))["chosen"]
        found = compare(given.set, given.shots, given.seed, chosen)
        write_json(result(given.set, given.shots, given.seed), found)
    else:
        rows = table(plan["sets"], plan["shots"], plan["seeds"])
        write_json(TABLE, rows)
        show(rows)


if __name__ == "__main__":
    main()
