"""What every stage run holds beside the numbers that its script logs: enough to judge and restore it."""

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drtune.runs.journal import entries_of
from drtune.runs.outs import completed_entry, describe_outs
from drtune.runs.pointer import FOLDER, write_pointer
from drtune.runs.record import RunRecord, git, keep_commit
from drtune.runs.run import StageRun
from drtune.runs.stage_key import StageIdentity, is_code, store_root
from drtune.runs.stage_log import captured

ENTRY, LOG = "provenance/stage.lock.json", "stage.log"
MEGABYTE = 1e6
MODEL_CARD = "model.json"


@contextmanager
def holding(
    run: StageRun,
    record: RunRecord,
    identity: StageIdentity | None,
    folder: Path,
    stage: str,
    checkout: Path | None = None,
) -> Iterator[None]:
    """Give a run its provenance and inputs at the start; its log, peak memory and outs at the end.

    Args:
        run: the open run.
        record: from `record.collect`.
        identity: from `current_stage_key`; None outside DVC, where inputs and outs are unknown.
        folder: holds dvc.yaml; the paths of deps and outs start there.
        stage: its name, the context of what it reads.
        checkout: where the code lies, if not in `folder`, whose outs are then not DVC's: no pointer to them.
    """
    keep_commit(store_root(), record.commit)
    run.log_provenance(record, folder)
    if below_top := git(checkout or folder, "rev-parse", "--show-prefix").strip().rstrip("/"):
        run.set_tags({"drtune.folder": below_top})
    if identity and identity.entry:
        run.log_text(json.dumps(identity.entry, indent=2) + "\n", ENTRY)
    for path, md5 in (identity.deps if identity else {}).items():
        if not is_code(path):
            run.log_input(path, path, md5, context=stage)
    name = log_name(run)
    with captured(run.journal.files / name, lambda: run.journal.write("artifact", folder="", name=name)):
        try:
            yield
        finally:
            for metric, value in peak_memory().items():
                run.log_metrics({metric: value}, 1 + run.journal.last_step.get(metric, -1))
    if identity:
        log_outs(run, identity, folder, with_pointer=checkout is None)


def log_name(run: StageRun) -> str:
    """`stage.log`; a continued run begins another file, since the first may be shipped and cleared away."""
    kept = [entry["name"] for entry in entries_of(run.journal.path) if entry["kind"] == "artifact"]
    earlier = {name for name in kept if name.startswith("stage.") and name.endswith(".log")}
    return f"stage.{len(earlier) + 1}.log" if earlier else LOG


def peak_memory() -> dict[str, float]:
    """Most memory that this process has held, in megabytes: resident, and on each GPU that PyTorch used."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"peak_memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            peaks[f"peak_gpu_{index}_memory_megabytes"] = torch.cuda.max_memory_allocated(index) / MEGABYTE
    return peaks


def log_outs(run: StageRun, identity: StageIdentity, folder: Path, with_pointer: bool = True) -> None:
    """What was made: a tag path -> md5, the stage's complete entry of dvc.lock, a pointer to a model."""
    try:
        outs = describe_outs(folder, identity.outs)
    except OSError as error:
        run.report("outs", error)
        return
    run.set_tags({"dvc.outs": json.dumps({path: out["md5"] for path, out in outs.items()}, sort_keys=True)})
    if identity.entry:
        run.log_text(json.dumps(completed_entry(identity.entry, outs), indent=2) + "\n", ENTRY)
    for path, out in outs.items():
        if with_pointer and (folder / path / MODEL_CARD).is_file():
            facts = {"stage_key": identity.key, "root": str(store_root())}
            write_pointer(run.journal.files / FOLDER, {"path": path, **out}, facts)
            run.journal.write("artifact", folder="", name=FOLDER)
