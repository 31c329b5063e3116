"""The model of a run in MLflow: a pointer of a few lines to DVC's md5, no second copy of the weights.

It is an MLflow model all the same: it has a signature, can be registered and aliased, and
`mlflow.pyfunc.load_model` works wherever DVC's cache is at hand (see drtune/serving/pointer.py).
"""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from drtune.base.files import replacing, write_json

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


def write_pointer(folder: Path, out: Mapping[str, Any], facts: Mapping[str, str]) -> None:
    """Write the MLflow model folder that points to a finished model.

    Args:
        folder: is made or replaced.
        out: description of the model's folder as in dvc.lock, with `path` and `md5`.
        facts: what else tells where the model comes from: stage key, root, method.
    """
    model = {
        "flavors": {
            "python_function": {
                "loader_module": LOADER,
                "data": POINTER,
                "env": {},
                "python_version": platform.python_version(),
            }
        },
        "mlflow_version": installed("mlflow"),
        "signature": {side: json.dumps(columns) for side, columns in SIGNATURE.items()},
        "metadata": {"dvc.md5": out["md5"], "dvc.path": out["path"]},
    }
    with replacing(folder) as fresh:
        fresh.mkdir()
        (fresh / "MLmodel").write_text(yaml.safe_dump(model, sort_keys=False), encoding="utf-8")
        write_json(fresh / POINTER, {**out, **facts})


def installed(package: str) -> str:
    """Version of an installed distribution; empty text where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
