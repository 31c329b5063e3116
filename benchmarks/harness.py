"""What the accuracy benchmarks share: settings with changes, one training, records on the disk.

A record is one JSON file a row, OUT/BENCHMARK/ROW.json: what was found, and the commit of the code that found
it. A row whose record exists is not run again, so a stopped benchmark goes on where it was.
"""

import argparse
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.banks.extract import extract_train
from drtune.banks.settings import ExtractSettings
from drtune.base.files import read_json, write_json
from drtune.base.numeric import set_numeric_state
from drtune.base.runtime import RuntimeSettings, processors
from drtune.base.settings import Params
from drtune.data.packed import open_split
from drtune.evaluation.measure import measure
from drtune.evaluation.settings import EvaluateSettings
from drtune.params import parse, with_values
from drtune.sources.ingest import ingest
from drtune.sources.settings import DataSettings
from drtune.training.fit import Fitted, fit
from drtune.training.loop import Hooks
from pipeline.evaluate import measure_test

PLAN = Path("benchmarks/plan.yaml")
KEPT = Path("benchmarks/results")
ONE_PROCESSOR = {"runtime.threads": 1, "runtime.workers": 0}
"""Rows share the processors among them; the number of threads moves the last bits too."""


def arguments(about: str) -> argparse.ArgumentParser:
    """What every accuracy benchmark takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=KEPT, help="folder of the records and tables")
    return parser


def once(path: Path, make: Callable[..., Any], *given: Any) -> Any:
    """What a record holds; `make(*given)` finds it where there is none yet."""
    if path.exists():
        print(f"kept: {path}", flush=True)
        return recorded(path)
    print(f"running: {path}", flush=True)
    code, found = commit(), make(*given)
    write_json(path, {"commit": code, "found": found})
    return found


def each_once(make: Callable[..., Any], rows: Mapping[Path, tuple[Any, ...]]) -> list[Any]:
    """What the records of some rows hold; those without one are run, as `run_all` does.

    Args:
        make: finds what a record holds.
        rows: record -> what `make` is given.
    """
    for path in filter(Path.exists, rows):
        print(f"kept: {path}", flush=True)
    run_all(once, [(path, make, *given) for path, given in rows.items() if not path.exists()])
    return [recorded(path) for path in rows]


def recorded(path: Path) -> Any:
    """What an existing record holds."""
    return read_json(path)["found"]


def commit() -> str:
    """Of the code that runs; `-dirty` where it has changes."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    here = Path(__file__).parent
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()


class Task(NamedTuple):
    """A packed data set and the bank of its training split."""

    dataset: Path
    bank: Path


def changed(raw: Mapping[str, Any], change: Mapping[str, Any]) -> Params:
    """Settings with dotted names replaced, such as `methods.dr_tune.weight`, for work on one processor."""
    return parse(with_values(raw, ONE_PROCESSOR | dict(change)), "params.yaml")


def seeded(seed: int) -> dict[str, int]:
    """The settings that a seed changes: the cut of the data, head, order and augmentation."""
    return {"data.seed": seed, "train.seed": seed, "backbone.seed": seed}


def make_task(params: Params, folder: Path) -> Task:
    """Cut and pack the data, and extract the bank, as the first two stages do."""
    folder.mkdir(parents=True, exist_ok=True)
    task = Task(folder / "dataset", folder / "bank.safetensors")
    ingest(params[DataSettings], task.dataset, folder)
    set_numeric_state(params[ExtractSettings].seed, params[RuntimeSettings].num_threads)
    extract_train(task.bank, task.dataset, build_backbone(params[BackboneSettings]), params)
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
    settings, runtime = params[EvaluateSettings], params[RuntimeSettings]
    spec = fitted.backbone.spec
    _, _, scores = measure_test(fitted.model, task.dataset, spec, settings, runtime)
    return scores


def ood_scores(params: Params, task: Task, fitted: Fitted) -> dict[str, float]:
    """Accuracy on each set drawn otherwise."""
    settings, spec = params[EvaluateSettings], fitted.backbone.spec
    names = sorted(name for name in fitted.card.counts if name.startswith("ood/"))
    return {
        name.removeprefix("ood/"): measure(
            fitted.model, open_split(task.dataset, name), spec, settings, params[RuntimeSettings]
        )[1]["accuracy"]
        for name in names
    }


def run_all(job: Any, calls: Sequence[tuple[Any, ...]], fresh: bool = False) -> list[Any]:
    """`job(*call)` for each call, as many at once as there are processors.

    `fresh` gives each a process of its own, whose memory can be measured; that takes some seconds more.
    """
    spawn, tasks = get_context("spawn"), 1 if fresh else None
    with ProcessPoolExecutor(processors(), mp_context=spawn, max_tasks_per_child=tasks) as pool:
        return list(pool.map(job, *zip(*calls, strict=True)))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation, in percent."""
    return {
        "mean": round(100 * mean(values), 2),
        "std": round(100 * stdev(values), 2) if len(values) > 1 else 0.0,
        "n": len(values),
    }
