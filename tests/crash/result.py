"""What a project holds in the end, in a form that two projects can be compared by."""

import hashlib
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

UNEQUAL = ("system/", "images_per_second", "peak_", "seconds")
"""Metrics of the machine, not of the result."""
OURS = ("data", "models", "metrics", "reports", "params.yaml", "dvc.lock", "served", "restored")
"""What the project's user reads: equal to the byte."""
UNLIKE = ("MLmodel",)
"""Files that name times: their names count alone."""
SKIPPED = ("drtune", "pipeline", "catalog", "images", "mlruns", "mlflow.db")
SKIPPED += (".git", ".dvc/tmp", ".drtune/restored")
TELLING = (
    "drtune.kind",
    "drtune.stage",
    "drtune.stage_key",
    "drtune.key.",
    "dvc.outs",
    "optuna.state",
    "git.commit",
)
"""Beginnings of the tags that are compared."""
TRIAL = r"trial-\d+"
"""A trial that is given again has a number of its own, so that those after it have others."""
RUNS = """select run_uuid, e.name, r.name, status from runs r join experiments e using (experiment_id)
where r.lifecycle_stage = 'active'"""


def md5(path: Path) -> str:
    """Of a file; of a link where it leads."""
    if path.is_symlink() and not path.is_file():
        return str(path.readlink())
    return hashlib.md5(path.read_bytes()).hexdigest()


def files(folder: Path) -> dict[str, str]:
    """Path -> md5 of all that the user reads, whole or not."""
    found = {}
    for name in OURS:
        for path in [folder / name, *(folder / name).rglob("*")]:
            if (path.is_file() or path.is_symlink()) and "/.dvc/tmp/" not in str(path):
                content = "" if path.name in UNLIKE or path.suffix == ".pyc" else md5(path)
                found[str(path.relative_to(folder))] = content
    return found


def leftovers(folder: Path) -> list[str]:
    """Names of everything else below the project, folders with a slash, but for what DVC left of itself."""
    found = []
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        ours = name.startswith(SKIPPED) or "__pycache__" in name or name.split("/")[0] in OURS
        dvcs = name.startswith(".dvc/cache") and name.endswith(".tmp")
        if not ours and not dvcs:
            found.append(re.sub(TRIAL, "trial-*", name) + "/" * path.is_dir())
    return sorted(found)


def runs(folder: Path) -> list[dict[str, Any]]:
    """Every run of the store: name, status, tags, parameters, histories of metrics, names of artifacts."""
    found: list[dict[str, Any]] = []
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        for run, place, name, status in store.execute(RUNS).fetchall():
            tags = dict(store.execute("select key, value from tags where run_uuid = ?", (run,)))
            params = dict(store.execute("select key, value from params where run_uuid = ?", (run,)))
            points: dict[str, list[tuple[int, float]]] = {}
            query = "select key, step, value from metrics where run_uuid = ? order by key, step"
            for key, step, value in store.execute(query, (run,)):
                if not key.startswith(UNEQUAL):
                    points.setdefault(key, []).append((step, value))
            held = folder / "mlruns" / place / run / "artifacts"
            found.append(
                {
                    "name": re.sub(TRIAL, "trial-*", f"{place}: {name}"),
                    "status": status,
                    "tags": {key: tags[key] for key in tags if key.startswith(TELLING)},
                    "params": params,
                    "metrics": points,
                    "artifacts": sorted(
                        {
                            re.sub(r"stage\.\d+\.log", "stage.log", str(path.relative_to(held)))
                            for path in held.rglob("*")
                            if path.is_file() and not path.name.startswith(".artifact.uploading.")
                        }
                    ),
                }
            )
    return sorted(found, key=lambda run: (run["name"], run["status"], str(run["params"])))


def result(folder: Path) -> dict[str, Any]:
    """All of it."""
    return {"files": files(folder), "runs": runs(folder), "leftovers": leftovers(folder)}


def differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """What is not as it would be without the crash, in words."""
    faults = [
        f"{name}: {have['files'].get(name)}, not {want['files'].get(name)}"
        for name in sorted(have["files"].keys() | want["files"].keys())
        if have["files"].get(name) != want["files"].get(name)
    ]
    faults += [f"left over: {name}" for name in have["leftovers"] if name not in want["leftovers"]]
    faults += [f"gone: {name}" for name in want["leftovers"] if name not in have["leftovers"]]
    listed = [[(run["name"], run["status"]) for run in side["runs"]] for side in (have, want)]
    if listed[0] != listed[1]:
        return [*faults, f"runs: {listed[0]}, not {listed[1]}"]
    for one, other in zip(have["runs"], want["runs"], strict=True):
        for part in ("tags", "params", "metrics"):
            for name in sorted(one[part].keys() | other[part].keys()):
                here, there = one[part].get(name), other[part].get(name)
                if here != there:
                    faults.append(f"{one['name']}, {part} {name}: {short(here)}, not {short(there)}")
        if odd := set(one["artifacts"]) ^ set(other["artifacts"]):
            faults.append(f"{one['name']}, artifacts: {', '.join(sorted(odd))}")
    return faults


def short(value: Any) -> str:
    """Enough of a value to know it by."""
    text = str(value)
    return text if len(text) < 80 else f"{text[:40]}…{text[-40:]}"
