"""A finished model as an MLflow model that needs nothing of the project: weights, code and requirements."""

import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import drtune
from drtune.backbones.model_file import CARD, WEIGHTS
from drtune.base.errors import WeightsError
from drtune.base.files import replacing
from drtune.runs.holdings import SIGNATURE
from drtune.runs.store import set_defaults

LOADER = "drtune.serving.pyfunc"
PACKAGES = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "psutil",
    "pydantic",
    "pyyaml",
    "ruamel-yaml",
    "safetensors",
    "timm",
    "torch",
    "torchvision",
)
"""What the loader's modules import."""


def pins(lock: Path | None) -> list[str]:
    """Requirements of a served model: the lines of a lock file, else the versions installed here."""
    text = lock.read_text(encoding="utf-8") if lock and lock.is_file() else ""
    lines = [line.strip() for line in text.splitlines()]
    found = []
    for name in PACKAGES:
        pinned = [line for line in lines if plain(re.split(r"[=<>~ ;\[]", line, maxsplit=1)[0]) == name]
        found += pinned or [f"{name}=={version(name).partition('+')[0]}"]
    return found


def plain(name: str) -> str:
    """A distribution's name in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def materialize(model: Path, target: Path, requirements: Iterable[str], facts: Mapping[str, str]) -> None:
    """Write a self-contained MLflow pyfunc model.

    Args:
        model: folder with model.safetensors and model.json.
        target: is made; it appears complete or not at all.
        requirements: of its environment, as from `pins`.
        facts: where it comes from; kept as the model's metadata.

    Raises:
        WeightsError: `model` holds no finished model, or something lies at `target`.
    """
    if missing := [name for name in (WEIGHTS, CARD) if not (model / name).is_file()]:
        raise WeightsError(f"{model}: holds no {' and no '.join(missing)}; `dvc repro train` makes a model")
    if target.exists():
        raise WeightsError(f"{target}: exists already; remove it or choose another folder")
    set_defaults()
    for name in ("MLFLOW_UV_AUTO_DETECT", "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING"):
        os.environ.setdefault(name, "false")
    os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
    with replacing(target) as fresh, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # type hints of MLflow's own, advice on example inputs
        from mlflow import pyfunc
        from mlflow.models import ModelSignature

        pyfunc.save_model(
            str(fresh),
            loader_module=LOADER,
            data_path=str(model),
            code_paths=[str(Path(drtune.__file__).parent)],
            signature=ModelSignature.from_dict({"params": None} | signature()),
            pip_requirements=list(requirements),
            metadata=dict(facts),
        )


def signature() -> dict[str, str]:
    """The signature in the form that MLflow reads."""
    return {side: json.dumps(columns) for side, columns in SIGNATURE.items()}
