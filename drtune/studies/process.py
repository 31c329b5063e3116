"""A worker of a study, started by `drtune study run`: `python -m drtune.studies.process STUDY [UNTIL]`."""

import sys
from functools import partial
from pathlib import Path

from drtune.base.errors import ConfigError, DRTuneError
from drtune.params import PARAMS, load
from drtune.runs.lifecycle import stopping
from drtune.runs.record import collect
from drtune.runs.stage_key import current_stage_key, store_root
from drtune.studies.design import design_of, keyed, require_same
from drtune.studies.storage import open_storage, patiently, storage_url
from drtune.studies.study import Study
from drtune.studies.supervisor import end_with_supervisor
from drtune.studies.trial import Common, run_trial
from drtune.studies.worker import work_through


def main(name: str, until: float | None) -> None:
    """Run trials of a study until it has all of them, or until a time in Unix seconds."""
    root = store_root()
    params, identity = load(PARAMS), keyed(current_stage_key(Path.cwd(), "train"))
    study = patiently(Study, patiently(open_storage, storage_url(root)), name)
    require_same(name, study.design, design_of(params, identity.entry))
    record = collect(Path.cwd())
    process = {tag: text for tag, text in record.tags().items() if tag.startswith("proc.")}
    work_through(
        study, root, process, until, partial(run_trial, Common(study, params, identity, record, root))
    )


if __name__ == "__main__":
    try:
        end_with_supervisor()
        with stopping():
            main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else None)
    except DRTuneError as fault:
        print(fault, file=sys.stderr)
        sys.exit(2 if isinstance(fault, ConfigError) else 1)
