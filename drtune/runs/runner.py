"""The life of a stage: settings, key, MLflow run, work, status; faults of the user in words, not traces."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drtune.base.errors import ConfigError, DRTuneError
from drtune.base.files import refusal_of_disk
from drtune.base.settings import Params, Settings
from drtune.params import load
from drtune.runs.holdings import holding
from drtune.runs.lifecycle import clear, die_with_parent, exclusive, stopping
from drtune.runs.mlflow_run import stage_run
from drtune.runs.naming import PROJECT
from drtune.runs.record import collect
from drtune.runs.run import StageRun
from drtune.runs.stage_key import current_stage_key
from drtune.sources.settings import DataSettings
from drtune.training.settings import TrainSettings
from pipeline import paths


@dataclass(frozen=True)
class Stage:
    """What a script's `main` is handed: parsed settings, its MLflow run, a folder for running state."""

    params: Params
    run: StageRun
    checkpoints: Path


Work = Callable[[Stage], None]


def run_stage(name: str, work: Work, methods: Mapping[str, type[Settings]] | None = None) -> None:
    """Run one stage script from beginning to end; exit codes: 2 settings, 1 another fault, 128 + signal."""
    try:
        die_with_parent()
        params = load(paths.PARAMS, methods)
        stage = os.environ.get("DVC_STAGE", name).rpartition(":")[2]
        identity = current_stage_key(Path.cwd(), stage)
        record = collect(Path.cwd())
        checkpoints = paths.checkpoints(identity.key if identity else f"by-hand-{name}")
        with stopping(), exclusive(checkpoints):
            if identity is None:
                clear(checkpoints)  # nothing says that a state left there belongs to these settings and data
            about = (
                params[TrainSettings].method if name in ("train", "evaluate") else params[DataSettings].name
            )
            how: dict[str, Any] = {"suffix": about, "resume": True, "system_metrics": True}
            with (
                stage_run(PROJECT, stage, record, identity, lock=paths.LOCK, **how) as run,
                holding(run, record, identity, Path.cwd(), stage),
            ):
                work(Stage(params, run, checkpoints))
            clear(checkpoints)
        print(f"{stage}: {run.link}", flush=True)
    except DRTuneError as fault:
        print(f"{name}: {fault}", file=sys.stderr)
        sys.exit(2 if isinstance(fault, ConfigError) else 1)
    except Exception as fault:
        if (refusal := refusal_of_disk(fault)) is None:
            raise
        remedy = "nothing half-written is left: make room, or get the right to write, and run again"
        print(f"{name}: {refusal}; {remedy}", file=sys.stderr)
        sys.exit(1)
