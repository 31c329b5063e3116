"""What each part of DR-Tune brings, against a linear probe and a tuned plain fine-tuning.

    python -m benchmarks.ablation        (what it needs: benchmarks/README.md)

Every row has the same images, augmentation, batches and number of steps; the epoch is chosen on validation
and the test split is opened once a row. `tune` chooses optimiser, rate and batch norm mode of plain
fine-tuning, and alike of DR-Tune, on validation of cuts of its own; all other rows of DR-Tune run with the
shipped settings as they are.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.harness import (
    PLAN,
    Task,
    arguments,
    changed,
    make_task,
    once,
    recorded,
    run_all,
    seeded,
    spread,
    test_scores,
    train,
    validation,
)
from drtune.base.files import write_json
from drtune.base.settings import Params
from drtune.base.yaml import read_yaml

PLAIN: dict[str, Any] = {"train.method": "finetune", "train.head_init": "normal"}
SOLVED: dict[str, Any] = {"train.head_init": "bank", "train.head_scale": 1.0}
CONVERTED: dict[str, Any] = {"train.batch_norm": "converted"}
SCALED: dict[str, Any] = {"train.head_init": "bank", "train.head_scale": 0.25}
"""Mode of batch norm and start that DR-Tune is shipped with."""
GRID: list[dict[str, Any]] = [
    {"train.optimizer": optimizer, "train.lr_backbone": rate, "train.batch_norm": mode}
    for optimizer, rate, mode in (
        ("adamw", 0.0003, "converted"),
        ("adamw", 0.0003, "eval"),
        ("adamw", 0.001, "train"),
        ("sgd", 0.005, "train"),
        ("sgd", 0.01, "train"),
    )
]
"""What a tuned row tries: the best found for plain fine-tuning and for DR-Tune in earlier trials."""


def dr(train: Mapping[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    """DR-Tune with some parts changed, and with other values of what it replaces of `train`."""
    settings = {f"methods.dr_tune.{name}": value for name, value in parts.items()}
    settings |= {f"methods.dr_tune.train.{name}": value for name, value in (train or {}).items()}
    return {"train.method": "dr_tune", **settings}


TUNED = "plain fine-tuning"
PROBE = "linear probe"
FULL = "DR-Tune"
FULL_TUNED = "DR-Tune, tuned as plain fine-tuning is"
ROWS: dict[str, dict[str, Any]] = {
    PROBE: {"train.method": "linear_probe", **SOLVED},
    TUNED: PLAIN,
    "plain fine-tuning with DR-Tune's settings": PLAIN | CONVERTED,
    "plain fine-tuning with DR-Tune's settings from DR-Tune's start": PLAIN | CONVERTED | SCALED,
    "DR-Tune from the whole solved head": dr({"head_scale": 1.0}),
    "DR-Tune, batch norm in eval mode": dr({"batch_norm": "eval"}),
    "DR-Tune without calibration": dr(rotation="off", translation=False),
    "DR-Tune, + rotation": dr(translation=False),
    "DR-Tune, + translation": dr(rotation="off", confidence="off"),
    "DR-Tune, + translation, confidence": dr(rotation="off"),
    FULL: dr(),
    FULL_TUNED: dr(),
}
PARTS = [row for row in ROWS if row.startswith(FULL) and row not in (FULL, FULL_TUNED)]
TRIED: tuple[str, ...] = (TUNED, FULL_TUNED)
"""The rows that are tuned, each with the same trials."""


def with_trial(row: str, trial: Mapping[str, Any]) -> dict[str, Any]:
    """A tuned row's settings with a trial of `GRID`; DR-Tune has a mode of batch norm of its own."""
    change = ROWS[row] | dict(trial)
    if row == FULL_TUNED:
        change["methods.dr_tune.train.batch_norm"] = change.pop("train.batch_norm")
    return change


def cut(name: str, shots: str, seed: int) -> dict[str, Any]:
    """The settings that name a set, its size with the epochs that go with it, and a seed."""
    few = None if shots == "full" else int(shots)
    place = {"data.source": f"benchmarks/images/{name}", "data.shots": few, **seeded(seed)}
    epochs = read_yaml(PLAN)["ablation"]["epochs"]
    return place | ({"train.epochs": epochs[shots]} if shots in epochs else {})


def rows_of(shots: str) -> list[str]:
    """The rows of a size."""
    with_parts = shots in map(str, read_yaml(PLAN)["ablation"]["parts"])
    return [row for row in ROWS if with_parts or row not in PARTS]


def settings(change: Mapping[str, Any]) -> Params:
    """The shipped settings with the changes of all rows and then these."""
    return changed(read_yaml(Path("params.yaml")), read_yaml(PLAN)["base"] | change)


def best_on_validation(change: dict[str, Any], task: Task) -> tuple[float, float]:
    """Train and return (accuracy, -loss) on validation."""
    return validation(train(settings(change), task))


def on_test(change: dict[str, Any], task: Task) -> dict[str, float]:
    """Train, and measure the kept epoch on the test split."""
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


def tune(name: str, shots: str, seeds: list[int]) -> dict[str, Any]:
    """Try `GRID` for each row of `TRIED` on the validation splits of some cuts."""
    places = [cut(name, shots, seed) for seed in seeds]
    with tempfile.TemporaryDirectory() as folder:
        tasks = [make_task(settings(place), Path(folder) / str(place["data.seed"])) for place in places]
        calls = [
            (place | with_trial(row, trial), task)
            for row in TRIED
            for trial in GRID
            for place, task in zip(places, tasks, strict=True)
        ]
        scores = iter(run_all(best_on_validation, calls))
    found = {row: judged([[next(scores) for _ in seeds] for _ in GRID]) for row in TRIED}
    return {"seeds": seeds, **found}


def judged(scores: list[list[tuple[float, float]]]) -> dict[str, Any]:
    """The trials of `GRID` with (accuracy, -loss) on each validation split, and the best on average."""
    means = [tuple(mean(column) for column in zip(*cuts, strict=True)) for cuts in scores]
    trials = [
        trial | {"val_accuracy": [accuracy for accuracy, _ in cuts], "val_loss": [-loss for _, loss in cuts]}
        for trial, cuts in zip(GRID, scores, strict=True)
    ]
    return {"chosen": GRID[means.index(max(means))], "trials": trials}


def compare(name: str, shots: str, seed: int, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Every row of a size on one cut, those of `TRIED` as `tune` chose; equal rows are trained once."""
    place, rows = cut(name, shots, seed), rows_of(shots)
    chosen = {row: with_trial(row, tuned[row]["chosen"]) for row in TRIED}
    changes = {row: place | chosen.get(row, ROWS[row]) for row in rows}
    resolved = {row: settings(change).raw for row, change in changes.items()}
    first = {row: next(other for other in rows if resolved[other] == resolved[row]) for row in rows}
    different = [row for row in rows if first[row] == row]
    with tempfile.TemporaryDirectory() as folder:
        task = make_task(settings(place), Path(folder))
        found = run_all(on_test, [(changes[row], task) for row in different])
    scores = dict(zip(different, found, strict=True))
    return {row: scores[first[row]] for row in rows}


def table(out: Path, sets: list[str], shots: list[Any], seeds: list[int]) -> dict[str, Any]:
    """Accuracy of each row and its paired differences, by size and set, over the cuts that have been run."""
    found: dict[str, Any] = {}
    for size in map(str, shots):
        cuts = {
            name: [path for seed in seeds if (path := result(out, name, size, seed)).is_file()]
            for name in sets
        }
        done = {name: column([recorded(path) for path in paths]) for name, paths in cuts.items() if paths}
        if done:
            found["all images" if size == "full" else f"{size} images a class"] = done
    return found


def column(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Spread of each row over the cuts of one set, and of its differences on the same cut."""
    accuracy = {row: [run[row]["test_accuracy"] for run in runs] for row in runs[0]}
    against = {"tuned fine-tuning": accuracy[TUNED], "linear probe": accuracy[PROBE]}
    return {
        row: spread(values)
        | {f"minus {other}": paired(values, theirs) for other, theirs in against.items()}
        | {"minus the better": paired(values, max(accuracy[TUNED], accuracy[PROBE], key=mean))}
        for row, values in accuracy.items()
    }


def paired(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Spread of the differences between two rows."""
    return spread([a - b for a, b in zip(ours, theirs, strict=True)])


def result(out: Path, name: str, shots: str, seed: int | str) -> Path:
    """Where the results of a cut lie; of the seed `tuned`, what was chosen for a set of one size."""
    return out / "ablation" / f"{name}-{shots}-{seed}.json"


def show(found: Mapping[str, Any]) -> None:
    """Print a table a size as Markdown, and how DR-Tune stands against the better of the two baselines."""
    for size, columns in found.items():
        heads = [f"{name}, {rows[FULL]['n']} seeds" for name, rows in columns.items()]
        print(f"\n| test accuracy, {size} | " + " | ".join(heads) + " | mean |")
        print("|---" * (len(columns) + 2) + "|")
        for row in next(iter(columns.values())):
            print_row(row, [rows[row] for rows in columns.values()], "")
        for row in (FULL, FULL_TUNED):
            better = [rows[row]["minus the better"] for rows in columns.values()]
            print_row(f"{row}, minus the better of `{TUNED}` and `{PROBE}`", better, "+")


def print_row(title: str, cells: list[dict[str, float]], sign: str) -> None:
    """Print one line of Markdown: mean ± standard deviation of each set, and the mean of the means."""
    line = " | ".join(f"{cell['mean']:{sign}.1f} ± {cell['std']:.1f}" for cell in cells)
    print(f"| {title} | {line} | {mean(cell['mean'] for cell in cells):{sign}.1f} |")


def main() -> None:
    """Run what has no record yet, then the table."""
    parser = arguments(str(__doc__))
    parser.add_argument("--set", help="only this one")
    parser.add_argument("--shots", help="only this size: images a class, or full")
    parser.add_argument("--seed", type=int, help="only this cut")
    given = parser.parse_args()
    plan = read_yaml(PLAN)["ablation"]
    sizes, seeds = list(map(str, plan["shots"])), plan["seeds"]
    for shots in [given.shots] if given.shots else sizes:
        for name in [given.set] if given.set else plan["sets"]:
            tuned = once(
                result(given.out, name, shots, "tuned"), tune, name, shots, plan["tuning_seeds"][shots]
            )
            for seed in seeds if given.seed is None else [given.seed]:
                once(result(given.out, name, shots, seed), compare, name, shots, seed, tuned)
    rows = table(given.out, plan["sets"], sizes, seeds)
    write_json(given.out / "ablation.json", rows)
    show(rows)


if __name__ == "__main__":
    main()
