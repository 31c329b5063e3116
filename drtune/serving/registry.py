"""Models of runs in MLflow's registry: as pointers to DVC's md5, or as copies that need no project."""

import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path

import drtune
from drtune.backbones.model_file import CARD, WEIGHTS
from drtune.base.errors import TrackingError, WeightsError
from drtune.base.files import read_json, replacing
from drtune.runs.holdings import FOLDER, POINTER, SIGNATURE
from drtune.runs.outs import describe_out
from drtune.runs.run_store import RunStore, StoredRun
from drtune.runs.stage_key import dvc_folder
from drtune.serving.pointer import model_from_cache

COPY, LOADER = "materialized", "drtune.serving.pyfunc"
LOCK = Path("requirements.lock")
FINISHED_TRAINING = "tags.`drtune.stage` LIKE 'train%' AND attributes.status = 'FINISHED'"
PACKAGES = ["mlflow", "numpy", "pandas", "pillow", "psutil", "pydantic", "pyyaml", "ruamel-yaml"]
PACKAGES += ["safetensors", "timm", "torch", "torchvision"]
"""What the loader's modules import."""


def register_pointer(store: RunStore, name: str, run_name: str, alias: str) -> str:
    """Add the pointer that a training run holds to a registered model; returns how to load it."""
    run = _trained(store, run_name)
    tags = {"dvc.md5": _pointer_of(store, run)["md5"], "drtune.stage_key": run.key, "drtune.kind": "pointer"}
    return _register(store, name, run, FOLDER, tags, alias)


def materialize_to(
    opened: Callable[[], RunStore], which: str, out: Path | None, name: str, alias: str
) -> str:
    """Write a self-contained model to `out`, or as a copy into the run that made it, registered as `name`.

    `which`: folder of a finished model, or a run; only there, or for `name`, the store is `opened`.
    TrackingError, WeightsError: no such run or model, or no cache holds it any more.
    """
    md5, run, source = _found_model(opened, which, need_run=not out)
    facts = {"dvc.md5": md5} | ({"drtune.stage_key": run.key, "mlflow.run": run.run_id} if run else {})
    root = dvc_folder(Path.cwd())
    with source as model, tempfile.TemporaryDirectory(prefix="drtune-") as scratch:
        target = out or Path(scratch) / COPY
        materialize(model, target, pins(root / LOCK if root else None), facts)
        if out or run is None:
            return f"{target}: try `mlflow models predict -m {target} --env-manager local -t json -i FILE`"
        store = opened()
        store.client.log_artifact(run.run_id, str(target))
        return _register(store, name, run, COPY, {**facts, "drtune.kind": COPY}, alias)


def _found_model(
    opened: Callable[[], RunStore], which: str, need_run: bool
) -> tuple[str, StoredRun | None, AbstractContextManager[Path]]:
    """DVC md5 of a model, the run that made it (where asked for, or given), and a way to its folder."""
    folder = Path(which)
    if not folder.is_dir():
        store = opened()
        run = _trained(store, which)
        md5 = _pointer_of(store, run)["md5"]
        return md5, run, model_from_cache(md5, [store.root])
    md5 = describe_out(folder)["md5"]
    if not need_run:
        return md5, None, nullcontext(folder)
    made = next(opened().search(f"tags.`dvc.outs` LIKE '%{md5}%'", limit=1), None)
    if made is None:
        raise TrackingError(
            f"{folder}: no run of this store made this model; use --out instead of --register"
        )
    return md5, made, nullcontext(folder)


def _register(
    store: RunStore, name: str, run: StoredRun, artifact: str, tags: Mapping[str, str], alias: str
) -> str:
    number = store.register(name, run, artifact, tags, alias)
    address = f"models:/{name}@{alias}" if alias else f"models:/{name}/{number}"
    return f"{name}: version {number}; load it with mlflow.pyfunc.load_model('{address}')"


def _trained(store: RunStore, name: str) -> StoredRun:
    """The training run of this name or id; the newest finished one without a name."""
    found = store.get(name) if name else next(store.search(FINISHED_TRAINING, limit=1), None)
    if found is None:
        raise TrackingError("no finished training in this store; `dvc repro` makes one")
    return found


def _pointer_of(store: RunStore, run: StoredRun) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="drtune-") as scratch:
        held = store.fetch(run, f"{FOLDER}/{POINTER}", Path(scratch))
        if held is None:
            said = f"run {run.run_id[:8]} ({run.name}, {run.status}): made no model"
            raise TrackingError(f"{said}; give a finished training, `drtune runs --method NAME` lists them")
        return dict(read_json(held))


def pins(lock: Path | None) -> list[str]:
    """Requirements of a served model: the lines of a lock file, else the versions installed here."""
    text, found = lock.read_text(encoding="utf-8") if lock and lock.is_file() else "", []
    for name in PACKAGES:
        pinned = [line.strip() for line in text.splitlines() if _plain(line.strip()) == name]
        found += pinned or [f"{name}=={version(name).partition('+')[0]}"]
    return found


def _plain(requirement: str) -> str:
    """The name in a requirement, in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>~ ;\[]", requirement, maxsplit=1)[0]).lower()


def materialize(model: Path, target: Path, requirements: Iterable[str], facts: Mapping[str, str]) -> None:
    """Write a self-contained MLflow pyfunc model; it appears at `target` complete or not at all.

    `model`: folder with model.safetensors and model.json. `facts`: its metadata.
    WeightsError: `model` holds no finished model, or something lies at `target`.
    """
    if missing := [name for name in (WEIGHTS, CARD) if not (model / name).is_file()]:
        raise WeightsError(f"{model}: holds no {' and no '.join(missing)}; `dvc repro train` makes a model")
    if target.exists():
        raise WeightsError(f"{target}: exists already; remove it or choose another folder")
    for name in ("MLFLOW_UV_AUTO_DETECT", "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING"):
        os.environ.setdefault(name, "false")
    os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
    with replacing(target) as fresh, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # type hints of MLflow's own, advice on example inputs
        from mlflow import pyfunc
        from mlflow.models import ModelSignature

        signature = {side: json.dumps(columns) for side, columns in SIGNATURE.items()}
        pyfunc.save_model(
            str(fresh),
            loader_module=LOADER,
            data_path=str(model),
            code_paths=[str(Path(drtune.__file__).parent)],
            signature=ModelSignature.from_dict({"params": None, **signature}),
            pip_requirements=list(requirements),
            metadata=dict(facts),
        )
