"""A run made whole again: its code, settings, lock and data in a git worktree of their own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from ruamel.yaml import YAML

from drtune.base.errors import TrackingError, UntrustedError
from drtune.base.files import HALF, inside, read_json
from drtune.runs.holdings import ENTRY
from drtune.runs.mlflow_pipeline import RUN
from drtune.runs.outs import describe_out, listed_files, plain_entry
from drtune.runs.record import MAX_PATCH_BYTES, PATIENT, git, installed_packages
from drtune.runs.run_store import RunStore, StoredRun
from drtune.runs.stage_key import cache_folder, cached_object, holds_object, locked_entries, share_cache

PROVENANCE = "provenance"
NO_PATCH = (".*", "*/.*", "*.dvc", "*Dvcfile")
"""Never taken from a patch: they could name programs to run and places to fetch from; no run records them."""
MAX_NOTE = 1000
"""Bytes; a patch that was too long to record is a note of one line, see `record.code_patch`."""


@dataclass(frozen=True)
class Restored:
    """What `restore` has made."""

    folder: Path  # of dvc.yaml in the worktree
    stage: str
    entry: Mapping[str, Any]  # as in dvc.lock; its outs have no md5 where the run did not end well
    missing: tuple[str, ...]  # results that no cache holds any more, not needed to make them again
    packages: tuple[str, ...]  # installed now in another version, as `name now (then)`

    @property
    def command(self) -> str:
        """What a person types to run the stage again."""
        return f"cd {quote(str(self.folder))} && dvc repro --force --single-item {quote(self.stage)}"


def restore(store: RunStore, run: StoredRun, target: Path) -> Restored:
    """Make a worktree at `target` that holds what the run had: commit, patch, params.yaml, dvc.lock, data.

    TrackingError: the run cannot be restored; nothing is left at `target` then.
    """
    if target.exists():
        raise TrackingError(
            f"{target}: exists already; `git worktree remove --force {target}` removes an earlier one, "
            "or choose another folder with --out"
        )
    commit = _commit_of(store.root, run)
    with tempfile.TemporaryDirectory(prefix="drtune-") as scratch:
        held = store.fetch(run, PROVENANCE, Path(scratch))
        if held is None or not (held / "params.yaml").is_file():
            raise TrackingError(
                f"{run.about}: the store holds no {PROVENANCE}/params.yaml of it; "
                "its files are gone or lie on another machine, so nothing says what it was made from"
            )
        half = target.with_name(f".{target.name}{HALF}")  # a kill leaves nothing at `target`
        forget(store.root, half)
        shutil.rmtree(half, ignore_errors=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        try:
            tree = "git", "-C", str(store.root), "worktree"
            _demand(*tree, "add", "--quiet", "--detach", str(half), commit)
            made = _filled(store.root, run, half, held)
            _demand(*tree, "move", str(half), str(target))
            return replace(made, folder=target / made.folder.relative_to(half))
        except BaseException as fault:
            forget(store.root, half)
            if isinstance(fault, OSError | ValueError | RecursionError):  # of names that cannot be
                what = f"the files that the store holds of it cannot be put into {target}: {fault}"
                raise TrackingError(f"{run.about}: {what}; restore another run") from fault
            raise


def forget(root: Path, folder: Path) -> None:
    """Remove a worktree, whatever lies in it; `folder` is its top or lies in it."""
    top = git(folder, "rev-parse", "--show-toplevel", seconds=PATIENT).strip() if folder.is_dir() else ""
    if top and Path(top).resolve() != root.resolve():
        git(root, "worktree", "remove", "--force", top, seconds=PATIENT)
        shutil.rmtree(top, ignore_errors=True)
    git(root, "worktree", "prune", seconds=PATIENT)


def stage_run_of(store: RunStore, run: StoredRun) -> StoredRun:
    """The run itself, or of a pipeline run its newest stage, which holds the most."""
    if run.stage:
        return run
    stages = [store.get(value) for name, value in run.tags.items() if name.startswith(RUN) and value]
    if not stages:
        raise TrackingError(f"{run.about}: is no run of a stage and names none; see `drtune runs`")
    return max(stages, key=lambda stage: stage.started)


def _commit_of(root: Path, run: StoredRun) -> str:
    if not run.commit:
        raise TrackingError(f"{run.about}: was made without a git commit, nothing says which code it had")
    if run.stage[:1] == "-" or not run.stage.isprintable():
        raise UntrustedError(f"{run.about}: {run.stage[:100]!r} is no name of a stage; refused")
    options = "rev-parse", "--verify", "--quiet", "--end-of-options"
    found = git(root, *options, f"{run.commit}^{{commit}}".replace("\0", ""), seconds=PATIENT).strip()
    if not found:
        remote = run.tags.get("git.remote", "")
        fetch = f"fetch it from {remote}" if remote else "fetch it"
        raise TrackingError(
            f"{run.about}: its commit {run.commit} is not in {root}; {fetch} or from host "
            f"{run.tags.get('proc.host', 'unknown')}, where the run was made"
        )
    return found


def _filled(root: Path, run: StoredRun, target: Path, held: Path) -> Restored:
    """Put patch, settings, lock and data into a fresh worktree."""
    _apply(held / "code.patch", target, run)
    top = Path(git(root, "rev-parse", "--show-toplevel", seconds=PATIENT).strip())
    below = run.tags.get("drtune.folder", "")
    folder = inside(target, below) if below else target
    if not folder.is_dir():
        raise TrackingError(
            f"{run.about}: its folder {below!r} is not in commit {run.commit}; restore another run"
        )
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):  # the patch may have made links of them
        inside(folder, name)
        if name != "dvc.lock" and (held / name).is_file():
            shutil.copy(held / name, folder / name)
    if not (held / Path(ENTRY).name).is_file():
        raise TrackingError(
            f"{run.about}: holds no {ENTRY}, it was made outside DVC; nothing says what it read"
        )
    entry = plain_entry(read_json(held / Path(ENTRY).name), f"{run.about}, {ENTRY}")
    read = locked_entries(held / "dvc.lock")
    stages = {str(name): plain_entry(stage, held / "dvc.lock") for name, stage in read.items()}
    for path in (out["path"] for stage in (entry, *stages.values()) for out in stage.get("outs", [])):
        inside(target, os.path.normpath(os.path.join(below or ".", path)))
    _write_lock(folder / "dvc.lock", stages, run.stage, entry)
    project = inside(target, root.resolve().relative_to(top.resolve()).as_posix())
    inside(project, ".dvc/config.local")
    share_cache(root, project)
    deps = {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])}
    outs = {out["path"]: out["md5"] for out in entry.get("outs", []) if "md5" in out}
    _check_out(inside(top, below) if below else top, folder, target, {**deps, **outs})
    if wrong := [path for path, md5 in deps.items() if not holds(folder / path, md5)]:
        raise TrackingError(
            f"{run.about}: neither this clone, DVC's cache nor a remote holds what the run read as "
            f"{', '.join(wrong)}; fetch it into the cache (`dvc pull` in {root}, or from host "
            f"{run.tags.get('proc.host', 'unknown')}), or put the folder back as it was, and restore again"
        )
    missing = tuple(path for path, md5 in outs.items() if not holds(folder / path, md5))
    return Restored(folder, run.stage, entry, missing, changed_packages(held / "pip-freeze.txt"))


def _apply(patch: Path, target: Path, run: StoredRun) -> None:
    if not patch.is_file():
        return
    size = patch.stat().st_size
    if size > 4 * MAX_PATCH_BYTES:
        raise TrackingError(f"{run.about}: its patch has {size:,} bytes; no run writes such a one")
    text = patch.read_text(errors="replace")
    if size < MAX_NOTE and "diff --git" not in text:
        raise TrackingError(f"{run.about}: its uncommitted code was not recorded: {text.strip()}")
    if "\nGIT binary patch" in text:  # its size in memory has no bound
        raise UntrustedError(f"{run.about}: its patch holds binary content, which is no code; refused")
    skipped = [f"--exclude={name}" for name in NO_PATCH]
    _demand("git", "-C", str(target), "apply", "--whitespace=nowarn", *skipped, str(patch))
    settings = [f":(top,icase,glob)**/.dvc{below}" for below in ("", "/**")]
    if git(target, "status", "--porcelain", "--", *settings, seconds=PATIENT):
        raise UntrustedError(f"{run.about}: its patch takes settings of DVC away; refused")


def _write_lock(path: Path, stages: dict[str, Any], stage: str, entry: Mapping[str, Any]) -> None:
    """The lock that the run began with, with its own stage completed and its inputs as it read them."""
    read = {dep["path"]: dep for dep in entry.get("deps", [])}
    for made in (out for other in stages.values() for out in other.get("outs", [])):
        made.update(read.get(made["path"], {}))
    if all("md5" in out for out in entry.get("outs", [])):
        stages[stage] = dict(entry)
    else:  # the run did not end well: to DVC the stage has never run
        stages.pop(stage, None)
    # ruamel keeps the order, so that the difference to the commit is small
    YAML().dump({"schema": "2.0", "stages": stages}, path)


def _check_out(root: Path, target: Path, tree: Path, wanted: Mapping[str, str]) -> None:
    """Bring files into the worktree: from DVC's cache, from its remote, else from the folder beside.

    Args:
        root: the project's folder in the clone.
        target: the same in the worktree.
        tree: top of the worktree; nothing is written outside.
        wanted: path -> md5.
    """
    lock = locked_entries(target / "dvc.lock")
    tracked = {out["path"] for entry in lock.values() for out in entry.get("outs", []) if "md5" in out}
    paths = [path for path in wanted if path in tracked]
    cache = cache_folder(root)
    if not all(holds_object(cache, wanted[path]) for path in paths):
        dvc(target, "fetch", "--", *paths)
    for path in paths:
        held = cached_object(cache, wanted[path])
        if wanted[path].endswith(".dir") and held.is_file():  # DVC itself would write where a listing says
            listed_files(held, inside(tree, os.path.relpath(target / path, tree)))
    if paths:
        dvc(target, "checkout", "--force", "--", *paths)
    for path, md5 in wanted.items():
        if path not in tracked and not (target / path).exists() and holds(root / path, md5):
            source, there = root / path, inside(tree, os.path.relpath(target / path, tree))
            there.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, there)


def holds(path: Path, md5: str) -> bool:
    """Whether a file or folder has this content; a dependency without md5 only has to exist."""
    with suppress(OSError):  # a pipe or a device is never read to its end
        return (path.is_file() or path.is_dir()) and (not md5 or bool(describe_out(path)["md5"] == md5))
    return False


def changed_packages(then: Path) -> tuple[str, ...]:
    """Packages of the run's list that are installed in another version now, or not at all."""
    lines = then.read_text().splitlines() if then.is_file() else []
    old = dict(line.split("==") for line in lines if "==" in line)
    new = dict(line.split("==") for line in installed_packages())
    changed = {name: version for name, version in old.items() if new.get(name) != version}
    return tuple(f"{name} {new.get(name, 'absent')} (then {version})" for name, version in changed.items())


def dvc(folder: Path, *arguments: str, quiet: bool = True) -> int:
    """Exit code of one DVC command in a folder, which owns no experiment around this process."""
    own = ("DVC_EXP", "DVC_ROOT", "DVC_STAGE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    output = subprocess.DEVNULL if quiet else None
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=output).returncode


def _demand(*command: str) -> None:
    """Run a command; a `TrackingError` with what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise TrackingError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
