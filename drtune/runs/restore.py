"""A run made whole again: its code, settings, lock and data in a git worktree of their own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ruamel.yaml import YAML

from drtune.base.errors import TrackingError, UntrustedError
from drtune.base.files import inside, read_json
from drtune.runs.commits import PATIENT
from drtune.runs.holdings import ENTRY
from drtune.runs.mlflow_pipeline import RUN
from drtune.runs.outs import describe_out, listed_files, plain_entry
from drtune.runs.record import MAX_PATCH_BYTES, git, installed_packages
from drtune.runs.run_cache import is_held
from drtune.runs.run_store import SHORT, RunStore, StoredRun
from drtune.runs.stage_key import cache_folder, cached_object, locked_entries, share_cache

PROVENANCE = "provenance"
NO_PATCH = (".*", "*/.*", "*.dvc", "*Dvcfile")
"""Never taken from a patch: they could name programs to run and places to fetch from; no run records them."""
MAX_NOTE = 1000
"""Bytes; a patch that was too long to record is a note of one line, see `record.code_patch`."""


@dataclass(frozen=True)
class Restored:
    """What `restore` has made.

    Attributes:
        folder: the folder of dvc.yaml in the worktree.
        stage: name of the run's stage.
        entry: the stage as in dvc.lock; its outs have no md5 where the run did not end well.
        missing: results of the run that no cache holds any more; they are not needed to make them again.
        packages: installed now in another version, as `name now (then)`.
    """

    folder: Path
    stage: str
    entry: Mapping[str, Any]
    missing: tuple[str, ...]
    packages: tuple[str, ...]

    @property
    def command(self) -> str:
        """What a person types to run the stage again."""
        return f"cd {quote(str(self.folder))} && dvc repro --force --single-item {quote(self.stage)}"


def restore(store: RunStore, run: StoredRun, target: Path) -> Restored:
    """Make a worktree at `target` that holds what the run had: commit, patch, params.yaml, dvc.lock, data.

    Raises:
        TrackingError: the run cannot be restored; nothing is left at `target` then.
    """
    if target.exists():
        raise TrackingError(
            f"{target}: exists already; `git worktree remove --force {target}` removes an earlier one, "
            "or choose another folder with --out"
        )
    commit = check_restorable(store.root, run)
    with tempfile.TemporaryDirectory(prefix="drtune-") as scratch:
        held = store.fetch(run, PROVENANCE, Path(scratch))
        if held is None or not (held / "params.yaml").is_file():
            raise TrackingError(
                f"run {run.run_id[:SHORT]} ({run.name}): the store holds no {PROVENANCE}/params.yaml of it; "
                "its files are gone or lie on another machine, so nothing says what it was made from"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            tree = "worktree", "add", "--quiet", "--detach", str(target), commit
            demand("git", "-C", str(store.root), *tree)
            return filled(store.root, run, target, held)
        except BaseException as fault:
            forget(store.root, target)
            if isinstance(fault, OSError | ValueError | RecursionError):  # of names that cannot be
                raise TrackingError(
                    f"run {run.run_id[:SHORT]} ({run.name}): the files that the store holds of it cannot be "
                    f"put into {target}: {fault}; restore another run"
                ) from fault
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
        raise TrackingError(
            f"run {run.run_id[:SHORT]} ({run.name}): is no run of a stage and names none; see `drtune runs`"
        )
    return max(stages, key=lambda stage: stage.started)


def check_restorable(root: Path, run: StoredRun) -> str:
    """The run's commit; refuse a run that is no stage's, or whose commit this clone does not have."""
    about = f"run {run.run_id[:SHORT]} ({run.name})"
    if not run.commit:
        raise TrackingError(f"{about}: was made without a git commit, nothing says which code it had")
    if run.stage[:1] == "-" or not run.stage.isprintable():
        raise UntrustedError(f"{about}: {run.stage[:100]!r} is no name of a stage; refused")
    options = "rev-parse", "--verify", "--quiet", "--end-of-options"
    found = git(root, *options, f"{run.commit}^{{commit}}".replace("\0", ""), seconds=PATIENT).strip()
    if not found:
        remote = run.tags.get("git.remote", "")
        raise TrackingError(
            f"{about}: its commit {run.commit} is not in {root}; "
            f"{f'fetch it from {remote}' if remote else 'fetch it'} or from host "
            f"{run.tags.get('proc.host', 'unknown')}, where the run was made"
        )
    return found


def filled(root: Path, run: StoredRun, target: Path, held: Path) -> Restored:
    """Put patch, settings, lock and data into a fresh worktree."""
    about = f"run {run.run_id[:SHORT]} ({run.name})"
    if (patch := held / "code.patch").is_file():
        apply(patch, target, about)
    top = Path(git(root, "rev-parse", "--show-toplevel", seconds=PATIENT).strip())
    below = run.tags.get("drtune.folder", "")
    folder = inside(target, below) if below else target
    if not folder.is_dir():
        raise TrackingError(
            f"{about}: its folder {below!r} is not in commit {run.commit}; restore another run"
        )
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):  # the patch may have made links of them
        inside(folder, name)
    for name in ("params.yaml", "dvc.yaml"):
        if (held / name).is_file():
            shutil.copy(held / name, folder / name)
    if not (held / Path(ENTRY).name).is_file():
        raise TrackingError(f"{about}: holds no {ENTRY}, it was made outside DVC; nothing says what it read")
    entry = plain_entry(read_json(held / Path(ENTRY).name), f"{about}, {ENTRY}")
    lock = read_lock(held / "dvc.lock")
    for path in (out["path"] for stage in (entry, *lock["stages"].values()) for out in stage.get("outs", [])):
        inside(target, os.path.normpath(os.path.join(below or ".", path)))
    write_lock(folder / "dvc.lock", lock, run.stage, entry)
    project = inside(target, root.resolve().relative_to(top.resolve()).as_posix())
    inside(project, ".dvc/config.local")
    share_cache(root, project)
    deps = {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])}
    outs = {out["path"]: out["md5"] for out in entry.get("outs", []) if "md5" in out}
    check_out(inside(top, below) if below else top, folder, target, {**deps, **outs})
    if wrong := [path for path, md5 in deps.items() if not holds(folder / path, md5)]:
        raise TrackingError(
            f"{about}: neither this clone, DVC's cache nor a remote holds what the run read as "
            f"{', '.join(wrong)}; fetch it into the cache (`dvc pull` in {root}, or from host "
            f"{run.tags.get('proc.host', 'unknown')}), or put the folder back as it was, and restore again"
        )
    missing = tuple(path for path, md5 in outs.items() if not holds(folder / path, md5))
    return Restored(folder, run.stage, entry, missing, changed_packages(held / "pip-freeze.txt"))


def apply(patch: Path, target: Path, about: str) -> None:
    """Apply the code of a run to its worktree.

    Raises:
        TrackingError: it was not recorded, does not fit, or is more than code.
    """
    if patch.stat().st_size > 4 * MAX_PATCH_BYTES:
        raise TrackingError(
            f"{about}: its patch has {patch.stat().st_size:,} bytes; no run writes such a one"
        )
    text = patch.read_text(errors="replace")
    if len(text) < MAX_NOTE and "diff --git" not in text:
        raise TrackingError(f"{about}: its uncommitted code was not recorded: {text.strip()}")
    if "\nGIT binary patch" in text:  # its size in memory has no bound
        raise UntrustedError(f"{about}: its patch holds binary content, which is no code; refused")
    skipped = [f"--exclude={name}" for name in NO_PATCH]
    demand("git", "-C", str(target), "apply", "--whitespace=nowarn", *skipped, str(patch))
    settings = [f":(top,icase,glob)**/.dvc{below}" for below in ("", "/**")]
    if git(target, "status", "--porcelain", "--", *settings, seconds=PATIENT):
        raise UntrustedError(f"{about}: its patch takes settings of DVC away; refused")


def read_lock(path: Path) -> dict[str, Any]:
    """The lock file that a run began with; one without stages where there is none."""
    stages = locked_entries(path)
    return {"schema": "2.0", "stages": {str(name): plain_entry(stages[name], path) for name in stages}}


def write_lock(path: Path, lock: dict[str, Any], stage: str, entry: Mapping[str, Any]) -> None:
    """The lock that the run began with, with its own stage completed and its inputs as it read them."""
    stages: dict[str, Any] = lock["stages"]
    read = {dep["path"]: dep for dep in entry.get("deps", [])}
    for made in (out for other in stages.values() for out in other.get("outs", [])):
        if made["path"] in read:
            made.update(read[made["path"]])
    if all("md5" in out for out in entry.get("outs", [])):
        stages[stage] = dict(entry)
    else:  # the run did not end well: to DVC the stage has never run
        stages.pop(stage, None)
    YAML().dump(lock, path)  # keeps the order, so that the difference to the commit is small


def check_out(root: Path, target: Path, tree: Path, wanted: Mapping[str, str]) -> None:
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
    if not all(is_held(cache, wanted[path]) for path in paths):
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
    if not then.is_file():
        return ()
    old = dict(line.split("==") for line in then.read_text().splitlines() if "==" in line)
    new = dict(line.split("==") for line in installed_packages())
    return tuple(
        f"{name} {new.get(name, 'absent')} (then {version})"
        for name, version in old.items()
        if new.get(name) != version
    )


def dvc(folder: Path, *arguments: str, quiet: bool = True) -> int:
    """Exit code of one DVC command in a folder, which owns no experiment around this process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_EXP")}
    for name in ("DVC_ROOT", "DVC_STAGE"):
        environment.pop(name, None)
    output = subprocess.DEVNULL if quiet else None
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=output, stderr=output, check=False
    ).returncode


def demand(*command: str) -> None:
    """Run a command.

    Raises:
        TrackingError: it fails; the message holds what it says.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise TrackingError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
