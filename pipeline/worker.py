"""A worker of a study, started by `drtune study run`: `python -m pipeline.worker STUDY [UNTIL]`."""

import sys
from functools import partial
from pathlib import Path

from drtune.config import load
from drtune.errors import ConfigError, DRTuneError
from drtune.methods import SETTINGS
from drtune.search.design import design_of, keyed, require_same
from drtune.search.storage import open_storage, patiently, storage_url
from drtune.search.study import Study
from drtune.search.supervisor import end_with_supervisor
from drtune.search.worker import work_through
from drtune.tracking.lifecycle import stopping
from drtune.tracking.record import collect
from drtune.tracking.stage_key import current_stage_key, store_root
from pipeline import paths
from pipeline.trial import Common, run_trial


def main(name: str, until: float | None) -> None:
    """Run trials of a study until it has all of them, or until a time in Unix seconds."""
    root = store_root()
    params, identity = load(paths.PARAMS, SETTINGS), keyed(current_stage_key(Path.cwd(), "train"))
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
