"""What tracking costs in the training loop: microseconds a step, and its share of a training's time.

    python -m benchmarks.tracking_cost [--steps 20000]
    python -m benchmarks.tracking_cost --training     (runs the train stage of this folder)

Prints one line for each state of the store; the limits are 50 microseconds a step and 1 % of a training.
"""

import argparse
import functools
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from drtune.base.settings import Params
from drtune.runs.journal import Shipper, header, journal_folder, open_journal
from drtune.runs.mlflow_run import MlflowTarget
from drtune.runs.run import StageRun
from drtune.runs.run_store import RunStore

VALUES = {
    "step/loss": 2.31,
    "step/loss/cross_entropy": 1.25,
    "step/loss/distribution": 1.06,
    "step/lr_backbone": 0.0003,
    "step/lr_head": 0.0023,
}
"""What DR-Tune logs at every step."""
STEP_SECONDS = 0.02
"""A quick step on a GPU; the share is that of a training whose steps take so long."""
PATIENCE = 300.0
PART = 50
"""Steps that the loop reports together."""


def cost(root: Path, uri: str, steps: int) -> tuple[float, float]:
    """Microseconds a step: the mean, and the worst group of 50 divided by 50; shipping goes on meanwhile."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    journal = open_journal(journal_folder(root), "", False, header("cost", "train", "train", {}))
    run = StageRun(journal, Shipper(journal.path, MlflowTarget(root), every=0.5), lambda: "")
    run.begin({})
    run.shipper.first_round.wait(PATIENCE)
    spent = []
    for first in range(0, steps, PART):
        before = time.perf_counter()
        for step in range(first, first + PART):
            run.log_metrics(VALUES, step)
        spent.append(time.perf_counter() - before)
        time.sleep(0.001)  # the training's own work, in which the shipper's thread has its turn
    run.close("FINISHED", PATIENCE)
    return 1e6 * sum(spent) / steps, 1e6 * max(spent) / PART


def timed(owner: Any, name: str, spent: dict[str, float], about: str) -> None:
    """Add the seconds of every call of a method to `spent[about]`."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent[about] = spent.get(about, 0.0) + time.perf_counter() - before

    setattr(owner, name, wrapped)


def thread_seconds(thread: threading.Thread) -> float:
    """Processor time of a living thread."""
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))


def real_training() -> None:
    """Run the train stage and print where its time went."""
    from drtune.runs import runner
    from pipeline import train

    train_stage = train.main
    spent: dict[str, float] = {}
    for name in ("log_metrics", "log_params", "log_artifact", "log_text", "log_input", "set_tags"):
        timed(StageRun, name, spent, "calls")
    for name in ("begin", "close"):  # the latter waits for the shipper
        timed(StageRun, name, spent, "begin and close")

    def main(params: Params, report: runner.RunReport) -> None:
        start, shipped = time.perf_counter(), thread_seconds(report.run.shipper)
        train_stage(params, report)
        spent["shipper beside"] = thread_seconds(report.run.shipper) - shipped
        spent["stage"] = time.perf_counter() - start

    train.main = main  # type: ignore[assignment]
    runner.run_stage(["train"])
    parts = "   ".join(f"{name} {seconds:.2f} s" for name, seconds in spent.items())
    stage = spent.pop("stage")
    print(f"{parts}\ntracking takes {sum(spent.values()) / stage:.2%} of the training's {stage:.0f} s")


def main() -> None:
    """Print a line for a store that works and one that is away, or for a real training."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--training", action="store_true")
    given = parser.parse_args()
    if given.training:
        real_training()
        return
    steps = given.steps
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {len(VALUES)} metrics a step")
    for name in ("sqlite", "server is away"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            uri = f"sqlite:///{root}/mlflow.db" if name == "sqlite" else "http://127.0.0.1:9"
            if name == "sqlite":
                os.environ["MLFLOW_TRACKING_URI"] = uri
                RunStore(root, make=True).client  # noqa: B018  (MLflow takes seconds to make its tables)
            mean, worst = cost(root, uri, steps)
        share = mean / 1e6 / STEP_SECONDS
        print(
            f"{name:<16} {mean:6.1f} us a step (worst {PART} steps: {worst:.1f}); "
            f"{share:.2%} of a training with {1000 * STEP_SECONDS:.0f} ms steps"
        )


if __name__ == "__main__":
    main()
