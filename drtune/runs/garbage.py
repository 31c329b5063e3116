"""What `drtune gc` frees: what runs leave on the local disk and nobody needs again. Never what is in use."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from drtune.base.errors import TrainingError
from drtune.base.files import HALF
from drtune.runs.journal import ENDED, header_of, journal_folder, journals_in, last_status, unsent
from drtune.runs.lifecycle import LOCK, claim, clear, exclusive, release
from drtune.runs.run_cache import ASIDE

OLD_SECONDS = 3600.0
"""What a process makes aside and renames is younger than this while the process lives."""
OURS = re.compile("[0-9a-f]{64}|by-hand-[a-z]+")
"""What a stage calls its checkpoint: other folders are no leftovers, wherever `.drtune` may lead."""
KEPT = {
    "downloads": "archives of public data sets; remove the folder by hand, they are fetched again",
    "restored": "runs made whole again; `git worktree remove --force FOLDER` removes one",
}
LINK, NONE = "a link, which is not followed", "no checkpoint of a stage"
STOPPED = "checkpoint of a stopped training"


class Garbage(NamedTuple):
    """One thing on the disk: why it can go, or why it is `kept`."""

    path: Path
    size: int
    why: str
    kept: bool = False


def collect_garbage(root: Path, dry_run: bool, unfinished: bool = False) -> list[Garbage]:
    """Remove what nobody needs again, or only list it; `unfinished`: also checkpoints of stopped trainings.

    Returns what was, or would be, removed; and, `kept`, what was found and left.
    """
    found = [*_checkpoints(root, dry_run, unfinished), *_journals(root, dry_run), *_leftovers(root, dry_run)]
    for path, why in ((root / ".drtune" / name, why) for name, why in KEPT.items()):
        found += [Garbage(path, size_of(path), why, kept=True)] if path.exists() else []
    return found


def _checkpoints(root: Path, dry_run: bool, unfinished: bool) -> Iterator[Garbage]:
    done = {path.name for path in root.glob(".dvc/cache/runs/*/*")}
    finished = [header_of(path) for path in journals_in(root) if last_status(path) == "FINISHED"]
    done |= {str(first.get("stage_key")) for first in finished if first}
    for folder in sorted((root / ".drtune" / "ckpt").glob("*/")):
        link = folder.is_symlink() or (folder / LOCK).is_symlink()
        if link or not OURS.fullmatch(folder.name):
            yield Garbage(folder, 0, f"{LINK if link else NONE}; remove it by hand", kept=True)
            continue
        size, why = size_of(folder), STOPPED
        if set(os.listdir(folder)) <= {LOCK}:
            why = "lock without a holder"
        elif folder.name in done:
            why = "checkpoint of a finished stage"
        elif not unfinished:
            yield Garbage(
                folder, size, f"{STOPPED}, which goes on from it; --unfinished removes it", kept=True
            )
            continue
        yield (
            Garbage(folder, size, why) if _is_free(folder, dry_run) else Garbage(folder, size, "in use", True)
        )


def _is_free(folder: Path, dry_run: bool) -> bool:
    """Whether nobody holds a checkpoint folder; it goes then, unless this is a dry run."""
    if (descriptor := claim(folder / LOCK)) is None:
        return False
    release(descriptor)
    try:
        if not dry_run:
            with exclusive(folder):  # on leaving, the folder goes with its lock
                clear(folder)
    except TrainingError:  # taken in this moment
        return False
    return True


def _journals(root: Path, dry_run: bool) -> Iterator[Garbage]:
    """Journals that are complete in the store, unless a stopped training goes on writing into one."""
    going_on = {path.name for path in (root / ".drtune" / "ckpt").glob("*/")}
    for path in journals_in(root):
        parts = [path, path.with_suffix(".off"), path.with_suffix(".files")]
        size = sum(map(size_of, parts))
        if (descriptor := claim(path)) is None:
            yield Garbage(path, size, "in use", kept=True)
            continue
        status, key = last_status(path), (header_of(path) or {}).get("stage_key")
        if unsent(path) or status not in ENDED:
            yield Garbage(path, size, "not shipped completely; `drtune sync` does it", kept=True)
        elif status != "FINISHED" and key in going_on:
            yield Garbage(path, size, "belongs to a stopped training, which goes on with it", kept=True)
        else:
            for part in [] if dry_run else parts:
                _remove(part)
            yield Garbage(path, size, "shipped journal")
        release(descriptor)


def _leftovers(root: Path, dry_run: bool) -> Iterator[Garbage]:
    """What killed processes had written aside, files of journals that are gone, checkouts of experiments."""
    folder, downloads = journal_folder(root), root / ".drtune" / "downloads"
    aside = [*root.glob(f".*{HALF}"), *root.glob(f"*/.*{HALF}"), *folder.glob(".*"), *downloads.glob(".*")]
    uploads = root.glob("mlruns/**/.artifact.uploading.*")  # MLflow's own
    halves = [*filter(Path.is_dir, aside), *root.glob(f".dvc/cache/{ASIDE}*"), *uploads]
    found = [(path, "half-made file") for path in halves if _is_old(path)]
    lonely = [path for path in folder.glob("*.files") if not path.with_suffix(".jsonl").exists()]
    found += [(path, "files of a journal that is gone") for path in lonely]
    found += [(path, "journals that were torn at their start") for path in folder.glob("torn")]
    left = [path for place in ("standalone/tmp*/", "tmp*/") for path in root.glob(f".dvc/tmp/exps/{place}")]
    used = _working_folders() if left else []
    free = [path for path in left if not any(place.is_relative_to(path) for place in used)]
    found += [(path, "checkout of a killed DVC experiment") for path in free if _is_old(path)]
    for path, why in found:
        yield Garbage(path, size_of(path), why)
        if not dry_run:
            _remove(path)


def _working_folders() -> list[Path]:
    """The current folder of every process that this user may look at."""
    found = []
    for process in psutil.process_iter():
        try:
            found.append(Path(process.cwd()))
        except (psutil.Error, OSError):
            continue
    return found


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > OLD_SECONDS


def size_of(path: Path) -> int:
    """Bytes of a file or of everything in a folder; 0 where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        return sum(size_of(inner) for inner in path.iterdir())
    return path.lstat().st_size if path.exists() else 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
