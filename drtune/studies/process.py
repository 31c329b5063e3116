"""A worker of a study, started by `drtune study run`: `python -m drtune.studies.process STUDY [UNTIL]`."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from drtune.base.errors import ConfigError, DRTuneError
from drtune.runs.lifecycle import die_with_parent, stopping

PARENT = "DRTUNE_SUPERVISOR"
"""Environment: process number of who started this worker."""


def end_with_supervisor() -> None:
    """Let this worker end when its supervisor dies, which it may have done before this was called."""
    die_with_parent()
    if os.environ.get(PARENT, "") not in ("", str(os.getppid())):
        signal.raise_signal(signal.SIGTERM)


def main(name: str, until: float | None) -> None:
    """Run trials of a study until it has all of them, or until a time in Unix seconds."""
    # these load for seconds, in which the supervisor may die
    from drtune.params import PARAMS, load
    from drtune.runs.record import collect
    from drtune.runs.stage_key import store_root
    from drtune.studies.design import design_of, require_same, train_stage
    from drtune.studies.storage import open_storage, patiently, storage_url
    from drtune.studies.study import Study
    from drtune.studies.trial import run_trial
    from drtune.studies.worker import work_through

    root = store_root()
    params, identity = load(PARAMS), train_stage()
    study = patiently(Study, patiently(open_storage, storage_url(root)), name)
    require_same(name, study.design, design_of(params, identity.entry))
    record = collect(Path.cwd())
    process = {tag: text for tag, text in record.tags().items() if tag.startswith("proc.")}
    run = partial(run_trial, study, params, identity, record, root)
    work_through(study, root, process, until, run)


if __name__ == "__main__":
    try:
        end_with_supervisor()
        with stopping():
            main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else None)
    except DRTuneError as fault:
        print(fault, file=sys.stderr)
        sys.exit(2 if isinstance(fault, ConfigError) else 1)
