"""The life of a stage: settings, key, MLflow run, work, status; faults of the user in words, not traces."""

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from drtune.base.errors import ConfigError, DRTuneError, ShortageError
from drtune.base.files import refusal_of_disk
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params
from drtune.params import PARAMS, load
from drtune.runs.console import Bar
from drtune.runs.holdings import holding
from drtune.runs.lifecycle import clear, die_with_parent, exclusive, stopping
from drtune.runs.mlflow_run import stage_run
from drtune.runs.naming import PROJECT
from drtune.runs.record import RunRecord, collect
from drtune.runs.run import StageRun
from drtune.runs.shortage import out_of_memory
from drtune.runs.stage_key import current_stage_key, store_root
from drtune.sources.settings import DataSettings
from drtune.training.settings import TrainSettings

STAGES = ("download", "extract", "train", "evaluate")
NUMBERS, LOCK = Path("numbers.lock"), Path("dvc.lock")
SHOWN = 20
"""Files that a line names."""


class RunReport:
    """What a stage reports goes to its run and to the terminal; `checkpoints`: its running state."""

    def __init__(self, run: StageRun, checkpoints: Path, downloads: Path) -> None:
        self.run, self.checkpoints, self.downloads = run, checkpoints, downloads
        self.log_params, self.log_metrics = run.log_params, run.log_metrics
        self.log_artifact = run.log_artifact

    def progress(self, label: str, unit: str, scale: float = 1.0) -> Bar:
        """A bar on a terminal, plain lines elsewhere."""
        return Bar(label, unit, scale)

    def say(self, line: str) -> None:
        """To standard output."""
        print(line, flush=True)


def run_stage(arguments: Sequence[str]) -> None:
    """Run one stage from beginning to end; exit codes: 2 settings, 1 another fault, 128 + signal."""
    # OpenMP's threads spin while they wait for each other; beside any other busy process that makes the many
    # small steps of a training ten times slower. It is read once, when PyTorch is loaded, which comes later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name = " ".join(arguments)
    try:
        die_with_parent()
        if name not in STAGES:
            raise ConfigError(f"{name!r} is no stage; known: {', '.join(STAGES)}; run `dvc repro`, say")
        work(name)
    except DRTuneError as fault:
        print(f"{name}: {fault}", file=sys.stderr)
        sys.exit(2 if isinstance(fault, ConfigError) else 1)
    except Exception as fault:
        if (refusal := refusal_of_disk(fault)) is None:
            raise
        remedy = (
            "nothing half-written is left: make room, get the right to write or mend the disk, and run again"
        )
        print(f"{name}: {refusal}; {remedy}", file=sys.stderr)
        sys.exit(1)


def work(name: str) -> None:
    """Run a stage's `main` inside its run, under its lock."""
    params = load(PARAMS)
    stage = os.environ.get("DVC_STAGE", name).rpartition(":")[2]
    root, identity, record = store_root(), current_stage_key(Path.cwd(), stage), collect(Path.cwd())
    warn_of_other_numbers(record)
    tell_of_changes(record)
    checkpoints = checkpoints_of(root, identity.key if identity else f"by-hand-{name}")
    with stopping(), exclusive(checkpoints):
        if identity is None:
            clear(checkpoints)  # nothing says that a state left there belongs to these settings and data
        how: dict[str, Any] = {"suffix": about(name, params), "resume": True, "system_metrics": True}
        with (
            stage_run(PROJECT, stage, record, identity, lock=LOCK, **how) as run,
            holding(run, record, identity, Path.cwd(), stage),
        ):
            report = RunReport(run, checkpoints, downloads_of(root))
            if name != "download":
                from drtune.base.device import chosen_device  # PyTorch, which a download does without

                report.say(f"device: {chosen_device(params[RuntimeSettings].device)}")
            # not before: who is refused a device names another, and the run goes on
            run.log_params({"runtime": params[RuntimeSettings].model_dump()})
            try:
                import_module(f"pipeline.{name}").main(params, report)
            except (RuntimeError, MemoryError) as fault:
                if (words := out_of_memory(fault, name, params)) is None:
                    raise
                raise ShortageError(words) from fault
        clear(checkpoints)
    print(f"{stage}: {run.link}", flush=True)


def tell_of_changes(record: RunRecord) -> None:
    """Say which changed files the run keeps as a patch, for others to see, and which it leaves out."""
    kept = re.findall(r"^diff --git a/(.*) b/", record.patch, re.MULTILINE)
    left = "left out, no code or may hold a key"
    for files, what in ((kept, "kept with the run"), (record.left_out, left)):
        if files:
            more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
            print(f"changed since {record.commit[:7]}, {what}: {', '.join(files[:SHOWN])}{more}", flush=True)


def about(name: str, params: Params) -> str:
    """What tells the runs of a stage apart at a glance: the method, or the data."""
    if name in ("train", "evaluate"):
        return params[TrainSettings].method
    return Path(params[DataSettings].source).name.removesuffix(".yaml")


def checkpoints_of(root: Path, key: str) -> Path:
    """Running state of one piece of work; outside DVC's outs, which DVC removes before a stage."""
    return root / ".drtune" / "ckpt" / key


def downloads_of(root: Path) -> Path:
    """Archives fetched from their publishers; beside the store, so that experiments share them."""
    return root / ".drtune" / "downloads"


def warn_of_other_numbers(record: RunRecord) -> None:
    """Say which packages that can move a number are not those of numbers.lock, the stage's dependency."""
    pins: dict[str, list[str]] = {}
    for line in NUMBERS.read_text().splitlines() if NUMBERS.is_file() else ():
        name, _, version = line.split(" ")[0].partition("==")
        pins.setdefault(name, []).append(version)
    installed = dict(package.split("==") for package in record.packages)
    other = sorted(
        f"{name} {installed[name]} (pinned: {', '.join(sorted(versions))})"
        for name, versions in pins.items()
        if name in installed and installed[name].split("+")[0] not in versions
    )
    if other:
        print(f"warning: not as {NUMBERS} says: {', '.join(other)}; numbers may differ", file=sys.stderr)
