"""Run a stage again and compare what comes out: bytes on the CPU, numbers within a tolerance on a GPU."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drtune.base.errors import TrackingError
from drtune.runs.outs import listed_files
from drtune.runs.record import device_name
from drtune.runs.restore import Restored, dvc
from drtune.runs.run_store import RunStore, StoredRun
from drtune.runs.stage_key import cache_folder, cached_object, dvc_folder, locked_entries

GPU = re.compile(r"^\d+ x ")
"""How `record.device_name` begins where there are GPUs."""


@dataclass(frozen=True)
class Compared:
    """One file of one out: its md5 in the run and in the repetition, empty where there is no such file."""

    path: str
    then: str
    now: str
    distance: float | None  # largest relative difference of the numbers in both; None: only bytes
    within: bool  # whether that is accepted


def repeat(restored: Restored, upstream: bool) -> dict[str, str]:
    """Run the stage again in its worktree, or it and all before it; returns out path -> md5 afterwards.

    Its runs go to a store of the worktree's own. TrackingError where the stage fails.
    """
    options = ["--force"] if upstream else ["--force", "--single-item"]
    before = {name: os.environ.pop(name) for name in ("MLFLOW_TRACKING_URI",) if name in os.environ}
    try:
        code = dvc(restored.folder, "repro", *options, restored.stage, quiet=False)
    finally:
        os.environ.update(before)
    if code != 0:
        raise TrackingError(f"stage {restored.stage}: fails in {restored.folder}; its output stands above")
    return _locked_outs(restored.folder / "dvc.lock")


def wanted_outs(restored: Restored, upstream: bool) -> dict[str, str]:
    """Out path -> md5 that the run left; with `upstream` also of the stages before, as its lock has them.

    TrackingError where the run did not end well, so that there is nothing to compare with.
    """
    outs = {out["path"]: out["md5"] for out in restored.entry.get("outs", []) if "md5" in out}
    if not outs:
        raise TrackingError(
            f"stage {restored.stage}: the run left no results to compare with; it did not end well. "
            f"Run it again with `{restored.command}`"
        )
    return {**_locked_outs(restored.folder / "dvc.lock"), **outs} if upstream else outs


def _locked_outs(lock: Path) -> dict[str, str]:
    outs = [out for entry in locked_entries(lock).values() for out in entry.get("outs", [])]
    return {out["path"]: out["md5"] for out in outs if "md5" in out}


def allows_tolerance(run: StoredRun) -> bool:
    """Whether a GPU took part, then or now: its sums may come in another order."""
    on_gpu = any(GPU.match(name) for name in (run.tags.get("env.device", ""), device_name()))
    return on_gpu and run.params.get("runtime.device") != "cpu"


def compare(
    folder: Path,
    then: Mapping[str, str],
    now: Mapping[str, str],
    tolerance: float | None,
    artifact: Callable[[str], Path | None],
) -> list[Compared]:
    """Compare outs, path -> md5, file by file: those of the worktree `folder` with the run's in DVC's cache.

    Args:
        tolerance: accepted relative difference of the numbers in JSON and safetensors files; None accepts
            equal bytes alone. Files of other kinds, pictures, are not judged where a tolerance is given.
        artifact: finds a file of the run that DVC does not cache, by its name.
    """
    cache, found = cache_folder(dvc_folder(folder) or folder), []

    def listing(path: str, md5: str) -> dict[str, str]:
        """File -> md5 of an out; a folder whose listing no cache holds is one entry."""
        if md5.endswith(".dir") and (held := cached_object(cache, md5)).is_file():
            return {file.as_posix(): part for file, part in listed_files(held, Path(path)).items()}
        return {path: md5} if md5 else {}

    for path, md5 in then.items():
        old, new = listing(path, md5), listing(path, now.get(path, ""))
        for name in sorted({*old, *new}):
            md5s = old.get(name, ""), new.get(name, "")
            distance, read = 0.0 if md5s[0] == md5s[1] else None, READERS.get(Path(name).suffix)
            if distance is None and read and all(md5s):
                held = cached_object(cache, md5s[0])
                distance = _distance(read, held if held.is_file() else artifact(name), folder / name)
            near = distance is not None and distance <= (tolerance or 0.0)
            accepted = tolerance is not None and all(md5s) and (near or not read)
            found.append(Compared(name, *md5s, distance, md5s[0] == md5s[1] or accepted))
    return found


def _distance(read: Callable[[Path], dict[str, Any]], then: Path | None, now: Path) -> float | None:
    try:
        there = then is not None and then.is_file() and now.is_file()
        return relative_distance(read(then), read(now)) if then and there else None
    except Exception:  # readers raise many kinds on a file that is none, and whose it is nobody knows
        return None


def relative_distance(then: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """Largest ||a - b|| / max(||a||, ||b||, 1e-12) over all named values.

    It is infinite where names differ, or numbers that are not finite.
    """
    import numpy as np

    worst = 0.0 if set(then) == set(now) else math.inf
    for name, value in then.items() if not worst else ():
        other = now[name]
        texts = isinstance(value, str) or isinstance(other, str)
        if value == other if texts else np.array_equal(value, other, equal_nan=True):
            continue
        size = (
            math.inf if texts or value.shape != other.shape else max(np.abs(value).max(), np.abs(other).max())
        )
        if not np.isfinite(size):
            return math.inf
        norms = [float(np.linalg.norm(part / size)) for part in (value, other, value - other)]  # no overflow
        worst = max(worst, norms[2] / max(*norms[:2], 1e-12 / size))
    return worst


def numbers_of_json(path: Path) -> dict[str, Any]:
    """Every leaf of a JSON document by its place; numbers as arrays of one, others as text."""
    import numpy as np

    def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict | list):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                yield from leaves(part, f"{place}/{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield place, np.array([float(value)])
        else:
            yield place, json.dumps(value)

    return dict(leaves(json.loads(path.read_bytes()), ""))


def tensors_of(path: Path) -> dict[str, Any]:
    """Every tensor of a safetensors file, in double precision."""
    from safetensors.torch import load_file

    return {name: value.double().numpy() for name, value in load_file(path).items()}


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {".json": numbers_of_json, ".safetensors": tensors_of}


def artifact_of(store: RunStore, run: StoredRun, scratch: Path) -> Callable[[str], Path | None]:
    """Looks a file up among the run's artifacts, which hold metrics.json and others by their last name."""
    return lambda name: store.fetch(run, Path(name).name, scratch)


def as_text(compared: Iterable[Compared], tolerance: float | None) -> str:
    """What differs, a line a file, and the verdict."""
    rows, lines = list(compared), []
    for row in rows:
        if row.then != row.now:
            change = f"{row.then[:8] or 'absent':<9} -> {row.now[:8] or 'absent':<9} "
            numbers = "" if row.distance is None else f"numbers differ by {row.distance:.2g}"
            lines.append(f"  {row.path:<40} {change}{numbers}{'' if row.within else '  DIFFERS'}".rstrip())
    equal, bad = sum(row.then == row.now for row in rows), sum(not row.within for row in rows)
    verdict = "equal within tolerance" if lines else "identical"
    verdict = f"differs: {bad} of {len(rows)} files" if bad else verdict
    rule = "bytes" if tolerance is None else f"bytes, or numbers within {tolerance:g} where a GPU takes part"
    return "\n".join(
        [*lines, f"{verdict}; {equal} of {len(rows)} files have the same bytes (compared: {rule})"]
    )
