"""The fair table and its picture, from what fair.py has found: `python -m benchmarks.fair_table`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from sklearn.isotonic import isotonic_regression

from benchmarks.fair import result
from benchmarks.harness import PLAN, arguments, recorded, spread
from drtune.base.files import replacing, write_json
from drtune.base.yaml import read_yaml
from drtune.evaluation.pictures.style import BLUE, GREY, new_figure, save, styled

AGAINST = {"plain": "finetune", "LP-FT": "lp_ft"}
"""Rows that all are compared with: fine-tuning from a random head, and from the head solved on the bank."""

SHIFTS = {"ood": "sets drawn otherwise", "corrupted": "corruptions of ImageNet-C, mean of the severities"}
"""Test sets that differ from the training images."""

TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10)

Run = Mapping[str, Any]
"""One seed of one row on one set, as `fair.on_test` returns it."""

Runs = Mapping[str, Sequence[Run]]
"""Set -> its runs, one a seed."""


def runs_of(out: Path, plan: Mapping[str, Any], row: str) -> Runs:
    """All results of a row."""
    fair = plan["fair"]
    found = {name: recorded(result(out, name, row))["runs"] for name in fair["sets"]}
    return {name: [runs[str(seed)] for seed in fair["seeds"]] for name, runs in found.items()}


def by_seed(runs: Runs, what: str) -> list[float]:
    """One number of each seed, its mean over the sets."""
    return [mean(run[what] for run in same_seed) for same_seed in zip(*runs.values(), strict=True)]


def difference(runs: Runs, others: Runs) -> dict[str, float]:
    """Test accuracy less that of other runs with the same seeds, in points."""
    pairs = zip(by_seed(runs, "test_accuracy"), by_seed(others, "test_accuracy"), strict=True)
    return spread([a - b for a, b in pairs])


def ratio(runs: Runs, others: Runs, what: str) -> float:
    """Mean ratio of a cost between paired runs."""
    pairs = [pair for name in runs for pair in zip(runs[name], others[name], strict=True)]
    return round(mean(a[what] / b[what] for a, b in pairs), 3)


def shifted(runs: Runs, kind: str) -> dict[str, dict[str, float]]:
    """Accuracy on each shifted set, `SET: NAME`."""
    return {
        f"{name}: {shift}": spread([run[kind][shift] for run in seeds])
        for name, seeds in runs.items()
        for shift in seeds[0][kind]
    }


def summary(runs: Runs, against: Mapping[str, Runs]) -> dict[str, Any]:
    """What the table says of a row: means over these sets, and their spread over the seeds."""
    plain = against["plain"]
    return {
        "test_accuracy": spread(by_seed(runs, "test_accuracy")),
        "test_mean_per_class": spread(by_seed(runs, "test_mean_per_class")),
        **{f"minus {name}": difference(runs, others) for name, others in against.items()},
        "seconds_over_plain": ratio(runs, plain, "seconds"),
        "peak_mb_over_plain": ratio(runs, plain, "peak_mb"),
        **{kind: shifted(runs, kind) for kind in SHIFTS},
    }


def table(out: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Row -> `overall` and, by set, `sets`."""
    rows = {row: runs_of(out, plan, row) for row in plan["fair"]["rows"]}
    others = {name: rows[row] for name, row in AGAINST.items()}
    return {
        row: {
            "overall": summary(runs, others),
            "sets": {
                name: summary({name: seeds}, {key: {name: other[name]} for key, other in others.items()})
                for name, seeds in runs.items()
            },
        }
        for row, runs in rows.items()
    }


def written(cell: Mapping[str, float], sign: str = "") -> str:
    """`71.0 ± 1.2`."""
    return f"{cell['mean']:{sign}z.1f} ± {cell['std']:.1f}"


def grid(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def accuracies(rows: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Test accuracy on each set, and what it costs."""
    fair = plan["fair"]
    sets = [f"{name}, {about['shots'] or 'all'} a class" for name, about in fair["sets"].items()]
    lines = []
    for row, found in rows.items():
        every = found["overall"]
        cells = [written(one["test_accuracy"]) for one in found["sets"].values()]
        cells += [written(every[what]) for what in ("test_accuracy", "test_mean_per_class")]
        cells += [
            written(every[f"minus {name}"], "+") if row != other else "" for name, other in AGAINST.items()
        ]
        cells += [f"{every[f'{cost}_over_plain']:.2f}" for cost in ("seconds", "peak_mb")]
        lines.append([fair["rows"][row]["title"], *cells])
    minus = [f"minus {name}" for name in AGAINST]
    return grid(["method", *sets, "mean", "per class", *minus, "time", "memory"], lines)


def shifts(rows: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Accuracy on the shifted sets, one table a kind."""
    tables = []
    for kind, title in SHIFTS.items():
        names = next(iter(rows.values()))["overall"][kind]
        if not names:
            continue
        lines = []
        for row, found in rows.items():
            cells = found["overall"][kind].values()
            middle = f"{mean(cell['mean'] for cell in cells):.1f}"
            lines.append([plan["fair"]["rows"][row]["title"], *map(written, cells), middle])
        tables.append(f"Test accuracy, %, {title}:\n\n" + grid(["method", *names, "mean"], lines))
    return "\n".join(tables)


def markdown(rows: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Both tables, and what their columns are."""
    note = (
        f"Top-1 test accuracy, %, mean ± standard deviation of {len(plan['fair']['seeds'])} seeds. "
        "`per class`: mean of the classes' accuracies. `minus`: paired difference of the mean. "
        "`time`, `memory`: of a training, over those of plain fine-tuning."
    )
    return "\n".join([accuracies(rows, plan), note + "\n", shifts(rows, plan)])


def beside(heights: Sequence[float], gap: float) -> Any:
    """Places for labels, from 0 to 1, near these rising heights but at least `gap` apart."""
    steps = gap * np.arange(len(heights))
    low, high = min(heights), max(heights)
    wanted = (np.asarray(heights) - low) / ((high - low) or 1)
    return steps + isotonic_regression(wanted - steps, y_min=0, y_max=1 - steps[-1])


@styled
def picture(rows: Mapping[str, Any], plan: Mapping[str, Any]) -> Any:
    """Accuracy against cost: a dot a method, named in a column beside them in the order of accuracy."""
    figure = new_figure(8, 5.5)
    axes = figure.subplots()
    dots = [
        (found["overall"]["test_accuracy"], found["overall"]["seconds_over_plain"], row)
        for row, found in rows.items()
    ]
    dots.sort(key=lambda dot: dot[0]["mean"])
    axes.set_xscale("log")
    for (accuracy, time, row), place in zip(dots, beside([a["mean"] for a, *_ in dots], 0.055), strict=True):
        colour = BLUE if row == "dr_tune" else GREY
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "relpos": (0, 0.5)}
        axes.plot(time, accuracy["mean"], "o", color=colour, markersize=6)
        axes.annotate(
            f"{plan['fair']['rows'][row]['title']}  {written(accuracy)}",
            (time, accuracy["mean"]),
            xytext=(1.08, 0.04 + 0.92 * place),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour,
            arrowprops=line,
        )
    times = [time for _, time, _ in dots]
    ticks = [tick for tick in TICKS if min(times) <= tick <= max(times)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.margins(x=0.08, y=0.08)
    axes.set(xlabel="time of a training, in trainings of plain fine-tuning", ylabel="test accuracy (%)")
    axes.set_title(f"Mean of {', '.join(plan['fair']['sets'])}; {len(plan['fair']['seeds'])} seeds")
    return figure


def main() -> None:
    """Put the results together."""
    out, plan = arguments(str(__doc__)).parse_args().out, read_yaml(PLAN)
    rows = table(out, plan)
    text = markdown(rows, plan)
    write_json(out / "fair.json", rows)
    with replacing(out / "fair.md") as fresh:
        fresh.write_text(text, encoding="utf-8")
    save(picture(rows, plan), out / "fair.png")
    print(text)


if __name__ == "__main__":
    main()
