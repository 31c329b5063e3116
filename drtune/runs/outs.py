"""What a stage has made, by content: DVC's own md5 of files and folders, without asking DVC.

DVC hashes the outs only after the stage's process has ended, so a run that wants to say what it made must
follow the same rule. Source: dvc-data 3.18.3, hashfile/tree.py `Tree.as_bytes` (guarded by a test).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from drtune.base.errors import UntrustedError
from drtune.base.files import inside, read_json

IGNORED = ("__pycache__", ".DS_Store", "Thumbs.db")
"""As the project's .dvcignore has it; DVC leaves these out of a folder."""


def md5_of(path: Path) -> str:
    """MD5 of a file's bytes, 32 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def folder_listing(folder: Path) -> list[dict[str, str]]:
    """`md5` and `relpath` of every file below a folder, sorted by path: what DVC's `.dir` object holds."""
    listing = [
        {"md5": md5_of(path), "relpath": path.relative_to(folder).as_posix()}
        for path in folder.rglob("*")
        if path.is_file() and not set(path.relative_to(folder).parts) & set(IGNORED)
    ]
    return sorted(listing, key=lambda entry: entry["relpath"])


def listed_files(listing: Path, folder: Path) -> dict[Path, str]:
    """Path below `folder` -> md5 of every file that a `.dir` object names.

    Raises:
        UntrustedError: it is no listing as DVC writes it, or a path of it leaves the folder.
    """
    try:
        return {inside(folder, part["relpath"]): str(part["md5"]) for part in read_json(listing)}
    except (TypeError, KeyError):
        raise UntrustedError(
            f"{listing}: is no listing of a folder as DVC writes it; fetch it again"
        ) from None


def describe_out(path: Path) -> dict[str, Any]:
    """One file or folder as dvc.lock describes it, without its path: hash, md5, size in bytes, nfiles.

    Raises:
        FileNotFoundError: there is nothing at `path`.
    """
    if not path.is_dir():
        return {"hash": "md5", "md5": md5_of(path), "size": path.stat().st_size}
    listing = folder_listing(path)
    digest = hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    size = sum((path / entry["relpath"]).stat().st_size for entry in listing)
    return {"hash": "md5", "md5": f"{digest}.dir", "size": size, "nfiles": len(listing)}


def describe_outs(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Out path -> description, for those of `names` that exist below `folder`."""
    return {name: describe_out(folder / name) for name in names if (folder / name).exists()}


def completed_entry(entry: Mapping[str, Any], outs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A stage's entry of dvc.lock, with what its outs turned out to be."""
    return {**entry, "outs": [{"path": name, **out} for name, out in outs.items()]}
