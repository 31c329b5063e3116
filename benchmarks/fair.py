"""Every method of the family under equal conditions: one table, one picture.

    dvc repro benchmarks/dvc.yaml        (what it needs: benchmarks/README.md)

All rows have the same images, augmentation, batches, steps and optimiser. Each has the same number of trials
to choose its learning rate (and its main weight, where it has one) on the validation split of a cut of its
own; the epoch is chosen on validation too, and the test split is opened once a seed.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.harness import (
    Task,
    changed,
    make_task,
    ood_scores,
    run_all,
    seeded,
    spread,
    train,
)
from drtune.config import EvaluateSettings, Params, read_yaml
from drtune.errors import ConfigError
from drtune.files import read_json, replacing, write_json
from drtune.plots.style import BLUE, GREY, new_figure, save, styled
from drtune.robustness import measure_corrupted, set_name
from pipeline.evaluate import measure_test

RESULTS = Path("benchmarks/fair_results")
TABLE, TEXT, PICTURE = (Path(f"benchmarks/fair.{ending}") for ending in ("json", "md", "png"))
PLAIN = "finetune"
"""The row that all others are compared with."""

SHIFTS = ("ood", "corrupted")
"""Test sets that differ from the training images: drawn otherwise, or corrupted on the fly."""

Row = Mapping[str, Any]
"""A row's entry in benchmarks/params.yaml: `title`, `method`, `set`, `tune`."""


def result(name: str, row: str) -> Path:
    """Where the results of a row on a set lie."""
    return RESULTS / f"{name}-{row}.json"


def settings(plan: Mapping[str, Any], change: Mapping[str, Any]) -> Params:
    """The shipped settings with the changes of all rows and then these."""
    return changed(read_yaml(Path("params.yaml")), plan["base"] | plan["fair"]["base"] | change)


def cut(plan: Mapping[str, Any], name: str, seed: int) -> dict[str, Any]:
    """The settings that name a set, its size, its corruptions and a seed."""
    about = plan["fair"]["sets"][name]
    own = {"data.shots": about["shots"], "evaluate.corruptions": about["corruptions"]}
    return {"data.path": f"benchmarks/images/{name}", **own, **seeded(seed)}


def trials(row: Row, budget: int) -> list[dict[str, Any]]:
    """All combinations of what a row tunes.

    Raises:
        ConfigError: not exactly as many as every row has.
    """
    grid = [dict(zip(row["tune"], values, strict=True)) for values in product(*row["tune"].values())]
    if len(grid) != budget:
        what = f"{row['title']!r} has {len(grid)} combinations, fair.trials allows {budget}"
        raise ConfigError(f"benchmarks/params.yaml: {what}; give every row as many")
    return grid


def fixed(row: Row) -> dict[str, Any]:
    """What a row sets and does not tune."""
    return {"train.method": row["method"], **row["set"]}


def on_validation(change: dict[str, Any], task: Task, plan: Mapping[str, Any]) -> tuple[float, float]:
    """Train and return (accuracy, -loss) on validation of the best epoch.

    The start is no epoch here: where its head is solved on the bank, all trials have it in common.
    """
    torch.set_num_threads(1)
    history = train(settings(plan, change), task).progress.history
    return max((record["val_accuracy"], -record["val_loss"]) for record in history if record["epoch"] > 0)


def on_test(change: dict[str, Any], task: Task, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Train, and measure cost, the test split, its corruptions, and the sets drawn otherwise.

    `seconds` is processor time of the training (wall time on a GPU), `peak_mb` the most memory that the
    process held by then (on a GPU: that torch allocated there), in MB.
    """
    torch.set_num_threads(1)
    params, gpu = settings(plan, change), torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    start = clock()
    fitted = train(params, task)
    seconds = clock() - start
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = torch.cuda.max_memory_allocated() if gpu else resident
    use, spec, best = params[EvaluateSettings], fitted.backbone.spec, fitted.progress.best
    test, _, scores = measure_test(fitted.model, task.dataset, spec, use)
    corrupted = measure_corrupted(fitted.model, test, spec, use)
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


def differences(runs: Iterable[Mapping[str, Any]], others: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Paired differences of test accuracy, in points."""
    pairs = zip(runs, others, strict=True)
    return spread([a["test_accuracy"] - b["test_accuracy"] for a, b in pairs])


def ratio(runs: Iterable[Mapping[str, Any]], others: Iterable[Mapping[str, Any]], what: str) -> float:
    """Mean ratio of a cost between paired runs."""
    return round(mean(a[what] / b[what] for a, b in zip(runs, others, strict=True)), 3)


def summary(runs: list[Mapping[str, Any]], plain: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What the table says of a row on a set."""
    return {
        "test_accuracy": spread([run["test_accuracy"] for run in runs]),
        "test_mean_per_class": spread([run["test_mean_per_class"] for run in runs]),
        "minus_plain": differences(runs, plain),
        "seconds_over_plain": ratio(runs, plain, "seconds"),
        "peak_mb_over_plain": ratio(runs, plain, "peak_mb"),
        **{
            kind: {name: spread([run[kind][name] for run in runs]) for name in runs[0][kind]}
            for kind in SHIFTS
        },
    }


def table(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Row -> set -> summary."""
    fair = plan["fair"]
    seeds = [str(seed) for seed in fair["seeds"]]
    runs = {
        (row, name): [read_json(result(name, row))["runs"][seed] for seed in seeds]
        for row in fair["rows"]
        for name in fair["sets"]
    }
    return {
        row: {name: summary(runs[row, name], runs[PLAIN, name]) for name in fair["sets"]}
        for row in fair["rows"]
    }


def mean_of(found: Mapping[str, Any], *path: str) -> float:
    """Mean over sets of one number of their summaries."""
    values = []
    for value in found.values():
        for key in path:
            value = value[key]
        values.append(value)
    return mean(values)


def with_spread(cell: Mapping[str, float]) -> str:
    """`71.0 ± 1.2`."""
    return f"{cell['mean']:.1f} ± {cell['std']:.1f}"


def shifted(found: Mapping[str, Any], kind: str) -> str:
    """Mean accuracy over all test sets of a kind of shift, in percent."""
    values = [cell["mean"] for one in found.values() for cell in one[kind].values()]
    return f"{mean(values):.1f}" if values else "-"


def markdown(rows: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    fair = plan["fair"]
    sets = [f"{name}, {about['shots'] or 'all'} a class" for name, about in fair["sets"].items()]
    heads = ["method", *sets, "mean", "per class", "minus plain", *SHIFTS, "time", "memory"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row, found in rows.items():
        cells = [with_spread(one["test_accuracy"]) for one in found.values()]
        cells += [f"{mean_of(found, what, 'mean'):.1f}" for what in ("test_accuracy", "test_mean_per_class")]
        cells += [f"{mean_of(found, 'minus_plain', 'mean'):+.1f}", *(shifted(found, kind) for kind in SHIFTS)]
        cells += [f"{mean_of(found, what):.2f}" for what in ("seconds_over_plain", "peak_mb_over_plain")]
        lines.append(f"| {fair['rows'][row]['title']} | " + " | ".join(cells) + " |")
    seeds = len(fair["seeds"])
    note = (
        f"Top-1 test accuracy, %, mean ± standard deviation of {seeds} seeds. `per class`: mean of the "
        "classes' accuracies. `minus plain`: paired difference of top-1 to plain fine-tuning, points. "
        "`ood`: mean accuracy on the sets drawn otherwise; `corrupted`: under the corruptions of ImageNet-C "
        "that the settings name, mean over severities. `time`, `memory`: of a training, over those of plain "
        "fine-tuning."
    )
    return "\n".join(lines) + f"\n\n{note}\n"


@styled
def picture(rows: Mapping[str, Any], plan: Mapping[str, Any]) -> Any:
    """Accuracy against cost: one dot a method."""
    figure = new_figure(7.5, 5)
    axes = figure.subplots()
    for row, found in rows.items():
        x, y = mean_of(found, "seconds_over_plain"), mean_of(found, "test_accuracy", "mean")
        axes.plot(x, y, "o", color=BLUE if row == "dr_tune" else GREY, markersize=6)
        title = plan["fair"]["rows"][row]["title"]
        axes.annotate(title, (x, y), xytext=(6, 3), textcoords="offset points", fontsize=8)
    axes.margins(x=0.18, y=0.08)
    axes.set(xlabel="time of a training, in trainings of plain fine-tuning", ylabel="test accuracy (%)")
    axes.set_title(f"Mean over {', '.join(plan['fair']['sets'])}; {len(plan['fair']['seeds'])} seeds each")
    return figure


def main() -> None:
    """Run one row on one set, or put the results together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--set", default="")
    parser.add_argument("--row", default="")
    given = parser.parse_args()
    plan = read_yaml(Path("benchmarks/params.yaml"))
    if given.what == "run":
        write_json(result(given.set, given.row), run(plan, given.set, plan["fair"]["rows"][given.row]))
        return
    rows = table(plan)
    text = markdown(rows, plan)
    write_json(TABLE, rows)
    with replacing(TEXT) as fresh:
        fresh.write_text(text, encoding="utf-8")
    save(picture(rows, plan), PICTURE)
    print(text)


if __name__ == "__main__":
    main()
