"""Models of runs in MLflow's registry: as pointers to DVC's md5, or as self-contained copies."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from drtune.base.errors import TrackingError
from drtune.base.files import read_json
from drtune.runs.holdings import FOLDER, POINTER
from drtune.runs.outs import describe_out
from drtune.runs.run_store import SHORT, RunStore, StoredRun
from drtune.runs.stage_key import dvc_folder
from drtune.serving.materialize import materialize, pins
from drtune.serving.pointer import model_from_cache

COPY = "materialized"
LOCK = Path("requirements.lock")
FINISHED_TRAINING = "tags.`drtune.stage` LIKE 'train%' AND attributes.status = 'FINISHED'"


def register_pointer(store: RunStore, name: str, run_name: str, alias: str) -> str:
    """Add the pointer that a training run holds to a registered model; returns how to load it.

    Raises:
        TrackingError: no such run, or it made no model.
    """
    run = trained(store, run_name)
    md5 = pointer_of(store, run)["md5"]
    tags = {"dvc.md5": md5, "drtune.stage_key": run.key, "drtune.kind": "pointer"}
    return said(name, store.register(name, run, FOLDER, tags, alias), alias)


def materialize_to(
    opened: Callable[[], RunStore], which: str, out: Path | None, name: str, alias: str
) -> str:
    """Write a self-contained model to `out`, or as a copy into the run that made it, registered as `name`.

    Args:
        opened: opens the store; called only where a run is asked for.
        which: folder of a finished model, or a run.
        out, name: one of them is given.
        alias: of the registered version.

    Raises:
        TrackingError, WeightsError: no such run or model, or no cache holds it any more.
    """
    md5, run, source = found_model(opened, which, need_run=not out)
    facts = {"dvc.md5": md5} | ({"drtune.stage_key": run.key, "mlflow.run": run.run_id} if run else {})
    root = dvc_folder(Path.cwd())
    requirements = pins(root / LOCK if root else None)
    with source as model, tempfile.TemporaryDirectory(prefix="drtune-") as scratch:
        target = out or Path(scratch) / COPY
        materialize(model, target, requirements, facts)
        if out or run is None:
            return f"{target}: try `mlflow models predict -m {target} --env-manager local -t json -i FILE`"
        store = opened()
        store.client.log_artifact(run.run_id, str(target))
        return said(name, store.register(name, run, COPY, {**facts, "drtune.kind": COPY}, alias), alias)


def found_model(
    opened: Callable[[], RunStore], which: str, need_run: bool
) -> tuple[str, StoredRun | None, AbstractContextManager[Path]]:
    """DVC md5 of a model, the run that made it (where asked for, or given), and a way to its folder."""
    folder = Path(which)
    if folder.is_dir():
        md5 = describe_out(folder)["md5"]
        return md5, run_of_model(opened(), folder, md5) if need_run else None, nullcontext(folder)
    store = opened()
    run = trained(store, which)
    md5 = pointer_of(store, run)["md5"]
    return md5, run, model_from_cache(md5, [store.root])


def said(name: str, version: str, alias: str) -> str:
    """How to load a registered version."""
    address = f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}"
    return f"{name}: version {version}; load it with mlflow.pyfunc.load_model('{address}')"


def trained(store: RunStore, name: str) -> StoredRun:
    """The training run of this name or id; the newest finished one without a name."""
    if name:
        return store.get(name)
    found = next(store.search(FINISHED_TRAINING, limit=1), None)
    if found is None:
        raise TrackingError("no finished training in this store; `dvc repro` makes one")
    return found


def run_of_model(store: RunStore, folder: Path, md5: str) -> StoredRun:
    """The run that made the model in a folder, known by its content."""
    found = next(store.search(f"tags.`dvc.outs` LIKE '%{md5}%'", limit=1), None)
    if found is None:
        raise TrackingError(
            f"{folder}: no run of this store made this model; use --out instead of --register"
        )
    return found


def pointer_of(store: RunStore, run: StoredRun) -> dict[str, str]:
    """What a run's pointer says."""
    with tempfile.TemporaryDirectory(prefix="drtune-") as scratch:
        held = store.fetch(run, f"{FOLDER}/{POINTER}", Path(scratch))
        if held is None:
            raise TrackingError(
                f"run {run.run_id[:SHORT]} ({run.name}, {run.status}): made no model; give a finished "
                "training, `drtune runs --method NAME` lists them"
            )
        return dict(read_json(held))
