"""What a study of the shipped space gains on few-shot digits, and whether its sampler beats random search.

    python -m benchmarks.study             (in the project folder, after `make repro`)
    python -m benchmarks.study --noise     (how far the settings move a value, and how far the seed alone)

Each seed is a cut of the data of its own (with head, order and augmentation), and a study of its own with
each sampler on the same budget, pruning included. A trial is judged on the validation split of its cut; the
winner and the shipped settings, every study's first trial, are then measured on its test split, once.
"""

import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import (
    Task,
    arguments,
    changed,
    each_once,
    make_task,
    seeded,
    spread,
    test_scores,
    train,
    validation,
)
from drtune.base.files import write_json
from drtune.base.settings import Params
from drtune.base.yaml import read_yaml
from drtune.studies.design import Design
from drtune.studies.space import own_values, read_study, resolved
from drtune.studies.storage import open_storage
from drtune.studies.study import Attempt, Study, begin
from drtune.studies.worker import Score, work_through
from drtune.training.fit import fit
from drtune.training.loop import Hooks
from drtune.training.settings import TrainSettings

SAMPLERS = ("auto", "random")


def trial(params: Params, task: Task, metric: str, attempt: Attempt) -> list[float]:
    """One training with the settings of a trial; its value on validation."""
    settings = resolved(params, attempt.params)
    score = Score(attempt, metric, settings[TrainSettings].monitor)

    def on_event(name: str, values: Mapping[str, float], step: int) -> None:
        if name == "epoch":
            score.epoch(values)

    fit(settings, task.dataset, task.bank, Hooks(on_event))
    score.end_training()
    return [score.value]


def studied(params: Params, task: Task, folder: Path) -> tuple[Study, float]:
    """A finished study and its seconds."""
    settings, space = read_study(params)
    design = Design(settings, space, own_values(params, space), {}, {})
    study = begin(
        open_storage(f"sqlite:///{folder / 'optuna.db'}"), settings.sampler, design, settings.trials
    )
    start = time.perf_counter()
    work_through(study, folder, {"proc.pid": "0"}, None, partial(trial, params, task, settings.metric))
    return study, time.perf_counter() - start


def records(out: Path, seeds: int, trials: int) -> dict[Path, tuple[int, int]]:
    """Where the results of the cuts lie -> (seed, trials)."""
    return {out / f"{seed}-{trials}.json": (seed, trials) for seed in range(seeds)}


def compared(seed: int, trials: int) -> dict[str, Any]:
    """One cut: a study with each sampler; test accuracy of the shipped settings and of each winner."""
    raw = read_yaml(Path("params.yaml"))
    found: dict[str, Any] = {"seed": seed}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shipped = changed(raw, seeded(seed))
        task = make_task(shipped, folder)
        for sampler in SAMPLERS:
            own = {"study.sampler": sampler, "study.seed": seed, "study.trials": trials}
            params = changed(raw, seeded(seed) | own)
            study, seconds = studied(params, task, folder)
            best = study.best()[0]
            states = [one.state for one in study.standings()]
            found[sampler] = {
                "validation": best.values[0],
                "test": test_scores(params, task, train(resolved(params, best.params), task))["accuracy"],
                "trial": best.first,
                "params": dict(best.params),
                "pruned": states.count("PRUNED"),
                "seconds": round(seconds, 1),
            }
            first = next(one for one in study.standings() if one.first == 0)
            found["shipped"] = {"validation": first.values[0]}
        found["shipped"]["test"] = test_scores(shipped, task, train(shipped, task))["accuracy"]
    return found


def summary(cuts: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, means and paired differences over the cuts."""
    rows = {}
    for name in ("shipped", *SAMPLERS):
        gains = [cut[name]["test"] - cut["shipped"]["test"] for cut in cuts]
        rows[name] = {
            "median_validation": median(cut[name]["validation"] for cut in cuts),
            "validation": spread([cut[name]["validation"] for cut in cuts]),
            "test": spread([cut[name]["test"] for cut in cuts]),
            "gain": spread(gains),
        }
    return rows


def noise(seed: int, trials: int) -> dict[str, list[float]]:
    """Validation accuracy on one cut: of points of the space with one seed, of one point with many seeds."""
    raw = read_yaml(Path("params.yaml"))
    shipped = changed(raw, seeded(seed))
    own = {"study.sampler": "random", "study.pruner": "none", "study.seed": seed, "study.trials": trials}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = make_task(shipped, folder)
        study, _ = studied(changed(raw, seeded(seed) | own), task, folder)
        again = [changed(raw, seeded(seed) | {"train.seed": seed + 1 + one}) for one in range(trials)]
        return {
            "points": [one.values[0] for one in study.standings()],
            "seeds": [validation(train(params, task))[0] for params in again],
        }


def main() -> None:
    """Run the cuts that have no record yet, then the table."""
    parser = arguments(str(__doc__))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--noise", action="store_true", help="trainings of random points, and of one point")
    given = parser.parse_args()
    sizes = given.seeds, given.trials
    if given.noise:
        for seed, found in enumerate(each_once(noise, records(given.out / "study_noise", *sizes))):
            parts = ", ".join(f"{name} {spread(values)['std']:.2f}" for name, values in found.items())
            print(f"cut {seed}: points of accuracy, standard deviation of {given.trials}: {parts}")
        return
    cuts = each_once(compared, records(given.out / "study", *sizes))
    rows = summary(cuts)
    for name, row in rows.items():
        test, gain = row["test"], row["gain"]
        chosen = f"validation, median {100 * row['median_validation']:5.1f}"
        measured = f"test {test['mean']:5.1f} ± {test['std']:.1f}"
        print(f"{name:<8} {chosen}   {measured}   over shipped {gain['mean']:+.1f} ± {gain['std']:.1f}")
    write_json(given.out / "study.json", {"trials": given.trials, "rows": rows, "cuts": cuts})


if __name__ == "__main__":
    main()
