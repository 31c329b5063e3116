"""What a stage has made, by content: DVC's own md5 of files and folders, without asking DVC.

DVC hashes the outs only after the stage's process has ended, so a run that wants to say what it made must
follow the same rule. Source: dvc-data 3.18.3, hashfile/tree.py `Tree.as_bytes` (guarded by a test).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from drtune.base.errors import UntrustedError
from drtune.base.files import inside, read_json

IGNORED = ("__pycache__", ".DS_Store", "Thumbs.db")
"""As the project's .dvcignore has it; DVC leaves these out of a folder."""
DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")
WRITTEN = ("path", "hash", "md5", "etag", "checksum", "size", "nfiles", "isexec")
"""What DVC writes of a file or folder that nobody tracks in the cloud."""


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

    UntrustedError: it is no listing as DVC writes it, or a path of it leaves the folder.
    """
    try:
        return {inside(folder, part["relpath"]): str(part["md5"]) for part in read_json(listing)}
    except (TypeError, KeyError):
        wrong = f"{listing}: is no listing of a folder as DVC writes it; fetch it again"
        raise UntrustedError(wrong) from None


def is_entry(entry: Any) -> bool:
    """Whether a value of a lock file has the shape of a stage."""
    if not isinstance(entry, dict) or not isinstance(entry.get("params", {}), dict):
        return False
    files = [entry.get("deps", []), entry.get("outs", [])]
    parts = [part for parts in files if isinstance(parts, list) for part in parts]
    named = all(isinstance(part, dict) and isinstance(part.get("path"), str) for part in parts)
    return named and all(isinstance(parts, list) for parts in files)


def plain_entry(entry: Any, origin: object) -> dict[str, Any]:
    """A stage of a dvc.lock, which may be a stranger's; of its files no more than DVC writes in this project.

    UntrustedError: it is none, or names what is neither data nor code.
    """
    if not is_entry(entry):
        raise UntrustedError(f"{origin}: is no stage as DVC's lock file has it; refused")
    plain = {**entry}
    for kind in {"deps", "outs"} & set(plain):
        parts = [{key: part[key] for key in WRITTEN if key in part} for part in plain[kind]]
        plain[kind] = [part | ({"hash": "md5"} if "md5" in part else {}) for part in parts]
        for path, md5 in ((part["path"], part.get("md5")) for part in parts):
            hidden = {".git", ".dvc"} & set(path.lower().split("/")) or path[:1] == "-"
            if hidden or not all(31 < ord(letter) != 127 for letter in path) or "://" in path:
                raise UntrustedError(f"{origin}: {path[:200]!r} is neither data nor code; refused")
            if md5 is not None and not DIGEST.fullmatch(str(md5)):
                raise UntrustedError(f"{origin}: {str(md5)[:200]!r} is no md5 of DVC's; refused")
    return plain


def describe_out(path: Path) -> dict[str, Any]:
    """A file or folder as dvc.lock describes it, without its path; FileNotFoundError where there is none."""
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
