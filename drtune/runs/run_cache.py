"""Hand a finished result to DVC: a stage's outs into its cache, their entry into its run cache.

`dvc repro` does so itself with what ran under it. What somebody else made under a stage key, a trial of a
study, is the same work: once it is recorded here, the next `dvc repro` with that key checks the outs out and
runs nothing. Until it is checked out, `dvc gc` holds it for unused and removes its objects.
Source: dvc 3.67.1, dvc/stage/cache.py `StageCache`; dvc-data 3.18.3, hashfile/db/local.py `LocalHashFileDB`
(private rules, guarded by tests against DVC itself).
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from stat import S_IMODE
from typing import Any

from ruamel.yaml import YAML

from drtune.base.errors import TrackingError
from drtune.runs.outs import completed_entry, describe_outs, folder_listing, md5_of
from drtune.runs.stage_key import (
    cache_folder,
    cached_object,
    content_hash,
    holds_result,
    result_at,
    results_of,
    stage_key,
)

PROTECTED = 0o444
"""Rights of an object; DVC trusts one that has them and hashes any other again."""
ASIDE = ".drtune-"
"""Begins the name of the folder, directly in the cache, where things are made before they are renamed."""
MILLISECOND = 1_000_000


def record_result(root: Path, entry: Mapping[str, Any], folder: Path) -> str:
    """Let DVC know a finished result of a stage, now the newest of its key; the same again changes nothing.

    Args:
        root: a DVC repository, also a worktree that shares its cache.
        entry: the stage as dvc.lock describes it, with the parameters that the result was made under.
        folder: holds the outs under the paths that `entry` gives, such as DVC caches; they are copied.

    Returns:
        The stage key.

    Raises:
        ConfigError: `root` is no DVC repository, or DVC cannot read its settings.
        TrackingError: an out is missing, changes meanwhile, or the cache cannot be written; it stays whole.
    """
    cache, key = cache_folder(root), stage_key(entry)
    names = [str(out["path"]) for out in entry.get("outs", [])]
    if missing := [name for name in names if not (folder / name).exists()]:
        raise TrackingError(
            f"{folder}: holds no {', '.join(missing)}; a result is recorded whole, with {', '.join(names)}. "
            "Let the stage end well there first"
        )
    try:
        complete = completed_entry(entry, describe_outs(folder, names))
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=ASIDE, dir=cache) as aside:
            for item in _lay_aside(cache, folder, complete["outs"], Path(aside)):
                target = cached_object(cache, item.name)
                _make_folder(target.parent, cache)
                item.replace(target)
            _add_entry(cache, key, complete, Path(aside))
    except OSError as fault:
        raise TrackingError(
            f"{cache}: cannot take the result in {folder}: {fault}; the run cache has no entry of it. "
            "Mend what is named there (space, rights) and record it again"
        ) from fault
    return key


def is_recorded(root: Path, key: str) -> bool:
    """Whether DVC's cache holds a result of this key, see `stage_key.holds_result` and `cache_folder`."""
    return holds_result(cache_folder(root), key)


def _lay_aside(cache: Path, folder: Path, outs: Iterable[Mapping[str, Any]], aside: Path) -> list[Path]:
    """Make every object that the cache lacks, named by its md5; a folder's listing comes after its files."""
    made: list[Path] = []
    for out in outs:
        path = folder / out["path"]
        for md5, source in _objects_of(path, out["md5"]).items():
            item = aside / md5
            if cached_object(cache, md5).is_file() or item in made:
                continue
            if isinstance(source, bytes):
                item.write_bytes(source)
            else:
                shutil.copyfile(source, item)
            # DVC never hashes an object again, so a wrong one would stay for good
            if md5_of(item) != md5.removesuffix(".dir"):
                raise TrackingError(
                    f"{path}: changes while it is recorded; record it when its stage has ended"
                )
            item.chmod(PROTECTED)
            made.append(item)
    return made


def _objects_of(path: Path, md5: str) -> dict[str, Path | bytes]:
    """md5 -> file or content of each object that a described out consists of."""
    if not md5.endswith(".dir"):
        return {md5: path}
    listing = folder_listing(path)
    files: dict[str, Path | bytes] = {part["md5"]: path / part["relpath"] for part in listing}
    return {**files, md5: json.dumps(listing, sort_keys=True).encode()}


def _add_entry(cache: Path, key: str, entry: Mapping[str, Any], aside: Path) -> None:
    """Write a result's file, unless it is there, and make it the newest of its key."""
    value = content_hash(entry)
    target = results_of(cache, key) / value
    if result_at(target) is None:
        fresh = aside / key / value
        _make_folder(fresh.parent, cache)
        YAML().dump(dict(entry), fresh)
        _make_folder(target.parent.parent, cache)
        try:  # the folder as a whole: DVC breaks off at one without a file, or with a folder, in it
            fresh.parent.rename(target.parent)
        except OSError:  # it holds other results
            fresh.replace(target)
    others = [other.stat().st_mtime_ns for other in target.parent.iterdir() if other != target]
    if others and target.stat().st_mtime_ns <= max(others):  # earlier results, or clocks that disagree
        now = max(time.time_ns(), max(others) + MILLISECOND)
        os.utime(target, ns=(now, now))


def _make_folder(folder: Path, cache: Path) -> None:
    """Make a folder below the cache with the cache's own rights, which it may give to a group."""
    if not folder.is_dir():
        _make_folder(folder.parent, cache)
        folder.mkdir(exist_ok=True)
        folder.chmod(S_IMODE(cache.stat().st_mode))
