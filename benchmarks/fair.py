"""Every method of the family under equal conditions: one row of the table on one set.

    python -m benchmarks.fair        (what it needs: benchmarks/README.md); then benchmarks.fair_table

All rows have the same images, augmentation, batches, steps and optimiser. Each has the same number of trials
to choose its learning rate (and its main weight, where it has one) on the validation split of a cut of its
own; the epoch is chosen on validation too, and the test split is opened once a seed.
"""

import resource
import tempfile
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import (
    PLAN,
    Task,
    arguments,
    changed,
    make_task,
    once,
    ood_scores,
    run_all,
    seeded,
    train,
)
from drtune.base.errors import ConfigError
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params
from drtune.base.yaml import read_yaml
from drtune.evaluation.robustness import measure_corrupted, set_name
from drtune.evaluation.settings import EvaluateSettings
from pipeline.evaluate import measure_test

Row = Mapping[str, Any]
"""A row's entry in benchmarks/plan.yaml: `title`, `method`, `set`, `tune`."""


def result(out: Path, name: str, row: str) -> Path:
    """Where the results of a row on a set lie."""
    return out / "fair" / f"{name}-{row}.json"


def settings(plan: Mapping[str, Any], change: Mapping[str, Any]) -> Params:
    """The shipped settings with the changes of all rows and then these."""
    return changed(read_yaml(Path("params.yaml")), plan["base"] | plan["fair"]["base"] | change)


def cut(plan: Mapping[str, Any], name: str, seed: int) -> dict[str, Any]:
    """The settings that name a set, its size, its corruptions and a seed, and those that the set brings."""
    about = plan["fair"]["sets"][name]
    own = {"data.shots": about["shots"], "evaluate.corruptions": about["corruptions"], **about.get("set", {})}
    return {"data.source": f"benchmarks/images/{name}", **own, **seeded(seed)}


def trials(row: Row, budget: int) -> list[dict[str, Any]]:
    """All combinations of what a row tunes.

    Raises:
        ConfigError: not exactly as many as every row has.
    """
    grid = [dict(zip(row["tune"], values, strict=True)) for values in product(*row["tune"].values())]
    if len(grid) != budget:
        what = f"{row['title']!r} has {len(grid)} combinations, fair.trials allows {budget}"
        raise ConfigError(f"benchmarks/plan.yaml: {what}; give every row as many")
    return grid


def fixed(row: Row) -> dict[str, Any]:
    """What a row sets and does not tune."""
    return {"train.method": row["method"], **row["set"]}


def on_validation(change: dict[str, Any], task: Task, plan: Mapping[str, Any]) -> tuple[float, float]:
    """Train and return (accuracy, -loss) on validation of the best epoch.

    The start is no epoch here: where its head is solved on the bank, all trials have it in common.
    """
    history = train(settings(plan, change), task).progress.history
    return max((record["val_accuracy"], -record["val_loss"]) for record in history if record["epoch"] > 0)


def on_test(change: dict[str, Any], task: Task, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Train, and measure cost, the test split, its corruptions, and the sets drawn otherwise.

    `seconds` is processor time of the training (wall time on a GPU), `peak_mb` the most memory that the
    process held by then (on a GPU: that torch allocated there), in MB.
    """
    params, gpu = settings(plan, change), torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    start = clock()
    fitted = train(params, task)
    seconds = clock() - start
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = torch.cuda.max_memory_allocated() if gpu else resident
    use, spec, best = params[EvaluateSettings], fitted.backbone.spec, fitted.progress.best
    runtime = params[RuntimeSettings]
    test, _, scores = measure_test(fitted.model, task.dataset, spec, use, runtime)
    corrupted = measure_corrupted(fitted.model, test, spec, use, runtime)
    return {
        "test_accuracy": scores["accuracy"],
        "test_mean_per_class": scores["mean_per_class"],
        "n": scores["n"],
        "val_accuracy": best["val_accuracy"],
        "epoch": best["epoch"],
        "seconds": round(seconds, 2),
        "peak_mb": round(held / 1e6),
        "ood": ood_scores(params, task, fitted),
        "corrupted": {name: corrupted[set_name(name)]["accuracy"] for name in use.corruptions},
    }


def run(plan: Mapping[str, Any], name: str, row: Row) -> dict[str, Any]:
    """Tune a row on a set, then train and measure it with each seed."""
    fair, own = plan["fair"], fixed(row)
    grid = trials(row, fair["trials"])
    with tempfile.TemporaryDirectory() as folder:
        place = cut(plan, name, fair["tuning_seed"])
        task = make_task(settings(plan, place), Path(folder))
        scores = run_all(on_validation, [(place | own | trial, task, plan) for trial in grid])
    chosen = grid[max(range(len(grid)), key=lambda i: scores[i])]
    jobs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in fair["seeds"]:
            place = cut(plan, name, seed)
            task = make_task(settings(plan, place), Path(folder) / str(seed))
            jobs.append((place | own | chosen, task, plan))
        found = run_all(on_test, jobs, fresh=True)
    tried = [trial | {"val_accuracy": score[0]} for trial, score in zip(grid, scores, strict=True)]
    tuning = {"seed": fair["tuning_seed"], "trials": tried, "chosen": chosen}
    return {"tuning": tuning, "runs": dict(zip(map(str, fair["seeds"]), found, strict=True))}


def main() -> None:
    """Run every row on every set that has no record yet."""
    parser = arguments(str(__doc__))
    parser.add_argument("--set", help="only this one")
    parser.add_argument("--row", help="only this one")
    given = parser.parse_args()
    plan = read_yaml(PLAN)
    for name in [given.set] if given.set else plan["fair"]["sets"]:
        for row in [given.row] if given.row else plan["fair"]["rows"]:
            once(result(given.out, name, row), run, plan, name, plan["fair"]["rows"][row])


if __name__ == "__main__":
    main()
