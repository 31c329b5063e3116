"""What every stage run holds beside the numbers that its script logs: enough to judge and restore it.

The model of a run is a pointer of a few lines to DVC's md5, no second copy of the weights. It is an MLflow
model all the same: it has a signature, can be registered and aliased, and `mlflow.pyfunc.load_model` works
wherever DVC's cache is at hand (see drtune/serving/pointer.py).
"""

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from drtune.base.files import replacing, write_json
from drtune.runs.outs import completed_entry, describe_outs
from drtune.runs.record import RunRecord, git, keep_commit
from drtune.runs.run import StageRun
from drtune.runs.stage_key import StageIdentity, is_code, store_root
from drtune.runs.stage_log import captured
from drtune.runs.system_metrics import peak_memory

ENTRY, LOG = "provenance/stage.lock.json", "stage.log"
MODEL_CARD = "model.json"
FOLDER, POINTER = "model", "pointer.json"
LOADER = "drtune.serving.pointer"
SIGNATURE: dict[str, list[dict[str, Any]]] = {
    "inputs": [{"type": "binary", "name": "image", "required": True}],
    "outputs": [
        {"type": "string", "name": "label", "required": True},
        {"type": "double", "name": "probability", "required": True},
        {"type": "map", "values": {"type": "double"}, "name": "probabilities", "required": True},
    ],
}
"""In: one encoded image file a row. Out: the best class, its probability, and that of every class by name."""


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

    `folder` holds dvc.yaml; the paths of deps and outs start there. `checkout`: where the code lies, if not
    there; the outs are then not DVC's, and no pointer leads to them.
    """
    keep_commit(store_root(), record.commit)
    run.log_provenance(record, folder)
    if below_top := git(checkout or folder, "rev-parse", "--show-prefix").strip().rstrip("/"):
        run.set_tags({"drtune.folder": below_top})
    if identity and identity.entry:
        run.log_text(json.dumps(identity.entry, indent=2) + "\n", ENTRY)
    for path, md5 in (identity.deps if identity else {}).items():
        if not is_code(path):
            run.log_input(path, md5, context=stage)
    with captured(run.journal.files / LOG, lambda: run.kept(LOG)):
        try:
            yield
        finally:
            for metric, value in peak_memory().items():
                run.log_metrics({metric: value}, 1 + run.journal.last_step.get(metric, -1))
    if identity:
        _log_outs(run, identity, folder, with_pointer=checkout is None)


def _log_outs(run: StageRun, identity: StageIdentity, folder: Path, with_pointer: bool) -> None:
    """What was made: a tag path -> md5, the stage's complete entry of dvc.lock, a pointer to a model."""
    try:
        outs = describe_outs(folder, identity.outs)
        for path, out in outs.items():
            if with_pointer and (folder / path / MODEL_CARD).is_file():
                facts = {"path": path, **out, "stage_key": identity.key, "root": str(store_root())}
                write_pointer(run.journal.files / FOLDER, facts)
                run.kept(FOLDER)
    except OSError as error:
        run.report("outs", error)
        return
    run.set_tags({"dvc.outs": json.dumps({path: out["md5"] for path, out in outs.items()}, sort_keys=True)})
    if identity.entry:
        run.log_text(json.dumps(completed_entry(identity.entry, outs), indent=2) + "\n", ENTRY)


def write_pointer(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the MLflow model folder that points to a model: its entry of dvc.lock, `root` of its cache."""
    loader = {
        "loader_module": LOADER,
        "data": POINTER,
        "env": {},
        "python_version": platform.python_version(),
    }
    model = {
        "flavors": {"python_function": loader},
        "mlflow_version": version("mlflow"),
        "signature": {side: json.dumps(columns) for side, columns in SIGNATURE.items()},
        "metadata": {"dvc.md5": facts["md5"], "dvc.path": facts["path"]},
    }
    with replacing(folder) as fresh:
        fresh.mkdir()
        (fresh / "MLmodel").write_text(yaml.safe_dump(model, sort_keys=False), encoding="utf-8")
        write_json(fresh / POINTER, dict(facts))
