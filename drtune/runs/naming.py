"""Parameters, names and values in the form that MLflow takes."""

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

PROJECT = "drtune"
"""Runs go to the experiment `drtune/pipeline`."""
MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000
"""Characters; mlflow 3.17 utils/validation.py. MLflow cuts longer values without a word in them."""
CUT = " … (cut)"


def experiment_name(project: str, kind: str = "pipeline") -> str:
    """The one experiment of a project's `pipeline` and stage runs, or of its `studies` and their trials."""
    return f"{project}/{kind}"


@lru_cache(maxsize=4096)
def legal_name(name: str) -> str:
    """`name` as MLflow takes it: refused characters become `_` (`loss[0]` -> `loss_0_`), paths are plain."""
    clean = re.sub(r"[^\w.\-/ :]", "_", name)[:MAX_NAME]
    parts = [part for part in clean.split("/") if part not in ("", ".", "..")]
    return re.sub(r"^\.\.", "__", "/".join(parts)) or "_"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names; an empty mapping stays as a value."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        result |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return result


def as_text(value: Any) -> str:
    """Text as it is; anything else as YAML and JSON write it: true, null, 0.001, [1, 2]."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters; a cut text says so at its end."""
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def encoded(value: float) -> float | str:
    """A number for strict JSON, which has no NaN and no infinity: those become text."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
