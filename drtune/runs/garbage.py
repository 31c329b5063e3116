"""What `drtune gc` frees: what runs leave on the local disk and nobody needs again. Never what is in use."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from drtune.base.errors import TrainingError
from drtune.runs.journal import ENDED, claim, entries_of, journal_folder, last_status, release, unsent
from drtune.runs.lifecycle import LOCK, clear, exclusive
from drtune.runs.sync import journals_in

OLD_SECONDS = 3600.0
"""What a process makes aside and renames is younger than this while the process lives."""
OURS = re.compile("[0-9a-f]{64}|by-hand-[a-z]+")
"""What a stage calls its checkpoint: other folders are no leftovers, wherever `.drtune` may lead."""
KEPT = {
    "downloads": "archives of public data sets; remove the folder by hand, they are fetched again",
    "restored": "runs made whole again; `git worktree remove --force FOLDER` removes one",
}


@dataclass(frozen=True)
class Garbage:
    """One thing on the disk: why it can go, or why it is `kept`."""

    path: Path
    size: int
    why: str
    kept: bool = False


def collect_garbage(root: Path, dry_run: bool, unfinished: bool = False) -> list[Garbage]:
    """Remove what is not needed, or only list it.

    Args:
        root: folder of the store, from `store_root()`.
        dry_run: change nothing.
        unfinished: also remove the checkpoints of stopped trainings, which then begin anew.

    Returns:
        What was, or would be, removed; and, `kept`, what was found and left.
    """
    found = [*checkpoints(root, dry_run, unfinished), *journals(root, dry_run)]
    for item in [*half_made(root), *left_experiments(root)]:
        found.append(item)
        if not dry_run:
            remove(item.path)
    for name, why in KEPT.items():
        if (root / ".drtune" / name).exists():
            found.append(Garbage(root / ".drtune" / name, size_of(root / ".drtune" / name), why, kept=True))
    return found


def checkpoints(root: Path, dry_run: bool, unfinished: bool) -> Iterator[Garbage]:
    """Folders of running state: those of finished keys, empty ones, and unfinished ones where wanted."""
    done = finished_keys(root)
    for folder in sorted((root / ".drtune" / "ckpt").glob("*/")):
        if folder.is_symlink() or (folder / LOCK).is_symlink():
            yield Garbage(folder, 0, "a link, which is not followed; remove it by hand", kept=True)
            continue
        if not OURS.fullmatch(folder.name):
            yield Garbage(folder, 0, "no checkpoint of a stage; remove it by hand", kept=True)
            continue
        size, empty = size_of(folder), set(os.listdir(folder)) <= {LOCK}
        finished = folder.name in done
        why = "lock without a holder" if empty else "checkpoint of a finished stage" if finished else ""
        if not why and unfinished:
            why = "checkpoint of a stopped training"
        if not why:
            note = "checkpoint of a stopped training, which goes on from it; --unfinished removes it"
            yield Garbage(folder, size, note, kept=True)
            continue
        descriptor = claim(folder / LOCK)
        if descriptor is None:
            yield Garbage(folder, size, "in use", kept=True)
            continue
        release(descriptor)
        if not dry_run:
            try:
                with exclusive(folder):  # on leaving, the folder goes with its lock
                    clear(folder)
            except TrainingError:  # taken in this moment
                yield Garbage(folder, size, "in use", kept=True)
                continue
        yield Garbage(folder, size, why)


def finished_keys(root: Path) -> set[str]:
    """Stage keys whose outs DVC's run cache holds, or whose journal ends with FINISHED."""
    keys = {path.name for path in root.glob(".dvc/cache/runs/*/*")}
    for path in journals_in(root):
        header = next(entries_of(path), None)
        if header and last_status(path) == "FINISHED":
            keys.add(str(header.get("stage_key", "")))
    return keys


def journals(root: Path, dry_run: bool) -> Iterator[Garbage]:
    """Journals that are complete in the store, unless a stopped training goes on writing into one."""
    going_on = {path.name for path in (root / ".drtune" / "ckpt").glob("*/")}
    for path in journals_in(root):
        parts = [path, path.with_suffix(".off"), path.with_suffix(".files")]
        size = sum(map(size_of, parts))
        descriptor = claim(path)
        if descriptor is None:
            yield Garbage(path, size, "in use", kept=True)
            continue
        try:
            header = next(entries_of(path), {})
            status = last_status(path)
            if unsent(path) or status not in ENDED:
                yield Garbage(path, size, "not shipped completely; `drtune sync` does it", kept=True)
            elif status != "FINISHED" and header.get("stage_key") in going_on:
                yield Garbage(path, size, "belongs to a stopped training, which goes on with it", kept=True)
            else:
                for part in [] if dry_run else parts:
                    remove(part)
                yield Garbage(path, size, "shipped journal")
        finally:
            release(descriptor)


def half_made(root: Path) -> Iterator[Garbage]:
    """What a killed process had written aside and not renamed, and files of journals that are gone."""
    journal, downloads = journal_folder(root), root / ".drtune" / "downloads"
    for path in [*root.glob(".mlflow.db.*"), *journal.glob(".*"), *downloads.glob(".*")]:
        if path.is_dir() and age(path) > OLD_SECONDS:
            yield Garbage(path, size_of(path), "half-made file")
    for path in journal.glob("*.files"):
        if not path.with_suffix(".jsonl").exists():
            yield Garbage(path, size_of(path), "files of a journal that is gone")


def left_experiments(root: Path) -> Iterator[Garbage]:
    """Whole checkouts that `dvc exp run --temp` and `--queue` leave when they are killed."""
    folders = [*root.glob(".dvc/tmp/exps/standalone/tmp*/"), *root.glob(".dvc/tmp/exps/tmp*/")]
    used = working_folders() if folders else []
    for folder in folders:
        alive = any(place.is_relative_to(folder) for place in used)
        if not alive and age(folder) > OLD_SECONDS:
            yield Garbage(folder, size_of(folder), "checkout of a killed DVC experiment")


def working_folders() -> list[Path]:
    """The current folder of every process that this user may look at."""
    found = []
    for process in psutil.process_iter():
        try:
            found.append(Path(process.cwd()))
        except (psutil.Error, OSError):
            continue
    return found


def age(path: Path) -> float:
    """Seconds since a file or folder was changed."""
    return time.time() - path.stat().st_mtime


def size_of(path: Path) -> int:
    """Bytes of a file or of everything in a folder; 0 where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        return sum(size_of(inner) for inner in path.iterdir())
    return path.lstat().st_size if path.exists() else 0


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
