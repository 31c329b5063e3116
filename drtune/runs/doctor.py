"""What `drtune doctor` looks at: everything around a run that can be wrong without anyone noticing."""

import importlib.metadata
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

from drtune.base.cards import cards
from drtune.base.errors import TrackingError
from drtune.runs import store
from drtune.runs.journal import ENDED, header_of, journals_in, last_status, unsent
from drtune.runs.lifecycle import LOCK, claim, holder_of, release
from drtune.runs.naming import experiment_name
from drtune.runs.record import git
from drtune.runs.run_store import RunStore, has_content

OK, NOTE, FAULT = "ok", "note", "FAULT"
LOW_DISK, NO_DISK = 5e9, 1e9
"""Bytes below which a training may fill the disk, and below which it will."""
DVC_SECONDS = 300.0


class Finding(NamedTuple):
    """One thing looked at: `level` ok, note or FAULT; what was found; what to do about it."""

    level: str
    about: str
    found: str
    remedy: str = ""


def _either(about: str, wrong: str, right: str, remedy: str, level: str = FAULT) -> Finding:
    """What is wrong with the remedy, or what is right where nothing is."""
    return Finding(level, about, wrong, remedy) if wrong else Finding(OK, about, right)


def examine(root: Path, folder: Path, project: str) -> list[Finding]:
    """Look at everything around the store of `root` and the dvc.yaml of `folder`; changes nothing,
    but that the store of a project that was moved finds its files.
    """
    own = chain(packages(), device(), version_control(folder), place(folder), in_step(folder))
    return [*own, *tracking_store(root, project), *journals(root), *locks(root), *telemetry(), *disk(root)]


def packages() -> Iterator[Finding]:
    """Whether the installed packages are those that this project asks for."""
    wrong = []
    for wanted in map(Requirement, importlib.metadata.requires("drtune-pipeline") or []):
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
            if not wanted.specifier.contains(Version(found).public, prereleases=True):
                wrong.append(f"{wanted.name} is {found}, wanted {wanted.specifier}")
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
    right = f"Python {platform.python_version()}, all that the project asks for"
    yield _either("packages", "; ".join(wrong), right, "install requirements.lock again: `make repro`")


def device() -> Iterator[Finding]:
    """Which device and precision `auto` comes to, and whether a GPU lies idle."""
    from drtune.base.device import chosen_device, pick_device, trouble_with_cuda  # PyTorch takes seconds
    from drtune.training.hardware import pick_precision

    if (names := cards()) and (trouble := trouble_with_cuda()):
        yield Finding(FAULT, "device", f"cpu, although there is a GPU ({names[0]})", trouble)
    else:
        precision = pick_precision("auto", pick_device("auto"))
        yield Finding(OK, "device", f"{chosen_device('auto')}; train.precision auto is {precision}")


def version_control(folder: Path) -> Iterator[Finding]:
    """Whether runs can name their code."""
    commit = git(folder, "rev-parse", "--short", "HEAD").strip()
    wrong, remedy = f"{folder} is no git repository", "`git init` and commit, or `dvc` fails"
    if (folder / ".git").exists():
        wrong, remedy = f"{folder}: no commit can be read", "commit once; where git calls the owner dubious: "
        remedy += "`git config --global --add safe.directory '*'`"
    yield _either("git", "" if commit else wrong, f"commit {commit}", remedy)


def place(folder: Path) -> Iterator[Finding]:
    """Whether DVC can copy the folder for an experiment aside: 3.67 hands its path to git unencoded."""
    if odd := sorted({letter for letter in str(folder) if not letter.isascii() or letter in "#?"}):
        found = f"`dvc exp run --temp` and `--queue` fail where a path holds {' '.join(odd)}; all else works"
        yield Finding(NOTE, "folder", found, "for these, move the project to a path of plain letters")


def in_step(folder: Path) -> Iterator[Finding]:
    """Whether dvc.lock belongs to the code, settings and data that lie here."""
    if not (folder / "dvc.lock").exists():
        yield Finding(NOTE, "dvc.lock", "there is none yet", "`dvc repro` makes it")
        return
    try:
        changed = ", ".join(name for name in json.loads(_dvc(folder, "status", "--json")) if ":" not in name)
        wrong = f"not in step: {changed}" if changed else ""
        yield _either("dvc.lock", wrong, "in step with code, settings and data", "`dvc repro`", NOTE)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        yield Finding(FAULT, "dvc.lock", "`dvc status` fails", "run it by hand and mend what it says")


def _dvc(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DVC_SECONDS).stdout


def tracking_store(root: Path, project: str) -> Iterator[Finding]:
    """Whether the store answers, has this version's tables, keeps a write-ahead log, and tells the truth."""
    uri = store.store_uri(root)
    database = store.sqlite_path(uri)
    if database and not has_content(database):
        remedy = "the first stage makes it, and `drtune sync` from the journals of earlier runs"
        yield Finding(NOTE, "store", f"{uri}: there is none yet", remedy)
        return
    try:
        found = RunStore(root, project=project)
        with store.in_words(uri):
            yield from write_ahead_log(database) if database else server_version(uri)
        list(found.search(limit=1))
        for before in found.moved_from:
            yield Finding(NOTE, "store", f"came from {before}; its runs find their files here now")
        experiment = found.client.get_experiment_by_name(experiment_name(project))
        dead = found.dead_runs(experiment.experiment_id) if experiment else {}
    except TrackingError as fault:
        said, _, remedy = str(fault).partition("; ")
        yield Finding(FAULT, "store", said, remedy)
        return
    yield Finding(OK, "store", f"{store.scrub(uri)} answers")
    wrong = f"{len(dead)} say RUNNING and are dead: {', '.join(run[:8] for run in dead)}" if dead else ""
    yield _either("runs", wrong, "every RUNNING run has a living process", "`drtune sync` ends them")


def write_ahead_log(database: Path) -> Iterator[Finding]:
    """Readers and writers of a sqlite store block each other without it; a damaged file is found here."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        (sound,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if sound != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed: {sound}")
    wrong = "" if mode == "wal" else f"journal_mode is {mode}"
    yield _either("write-ahead log", wrong, "on", "`drtune sync` sets it")


def server_version(uri: str) -> Iterator[Finding]:
    """Whether a server has the MLflow that this environment has."""
    if uri.startswith("http"):
        here, page = importlib.metadata.version("mlflow"), f"{store.scrub(uri).rstrip('/')}/version"
        with urllib.request.urlopen(page, timeout=store.PROBE_SECONDS) as answer:
            there = answer.read().decode(errors="replace").strip()
        other = there.split(".")[:2] != here.split(".")[:2]
        wrong = f"the server has MLflow {there}, this environment {here}" if other else ""
        remedy = "install the same minor version on both sides"
        yield _either("store version", wrong, f"MLflow {there}", remedy, NOTE)


def journals(root: Path) -> Iterator[Finding]:
    """Whether every journal of an ended process is in the store, with its end."""
    waiting, busy, cut, torn = 0, 0, 0, 0
    for path in journals_in(root):
        if (descriptor := claim(path)) is None:
            busy += 1
            continue
        whole = header_of(path) is not None
        torn += not whole
        waiting += whole and unsent(path) > 0
        cut += whole and last_status(path) not in ENDED
        release(descriptor)
    found = f"{waiting} not shipped completely, {cut} of killed processes" + f", {torn} torn" * bool(torn)
    remedy = "`drtune sync` ships and ends them, and puts torn ones aside"
    wrong = found if waiting or cut or torn else ""
    yield _either("journals", wrong, f"all shipped; {busy} in use", remedy)


def locks(root: Path) -> Iterator[Finding]:
    """Which checkpoints are held, and whether a checkpoint waits for its training to go on."""
    held, waiting = [], 0
    for lock in sorted((root / ".drtune" / "ckpt").glob(f"*/{LOCK}")):
        if lock.is_symlink():
            continue
        if (descriptor := claim(lock)) is None:
            held.append(f"{lock.parent.name[:12]} by pid {holder_of(lock.parent)}")
        else:
            waiting += len(os.listdir(lock.parent)) > 1
            release(descriptor)
    yield Finding(OK, "locks", f"held: {', '.join(held)}" if held else "none held")
    if waiting:
        remedy = "`dvc repro` goes on from them; `drtune gc` clears finished ones"
        yield Finding(NOTE, "checkpoints", f"{waiting} left by trainings that were stopped", remedy)


def telemetry() -> Iterator[Finding]:
    """Whether a tool reports its use to its makers."""
    store.set_defaults()
    off = [name for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK") if is_on(name)]
    wrong = "" if off else "MLflow's is on, because the environment says so"
    remedy = "unset MLFLOW_DISABLE_TELEMETRY or set it to true"
    yield _either("telemetry", wrong, f"MLflow's is off in all stages ({', '.join(off)})", remedy, NOTE)
    quiet = is_on("DVC_NO_ANALYTICS") or _dvc(Path.cwd(), "config", "core.analytics").strip() == "false"
    remedy = "`dvc config core.analytics false`"
    yield _either("analytics", "" if quiet else "DVC's are on", "DVC's are off", remedy, NOTE)


def is_on(name: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(name, "").lower() in ("true", "1", "yes")


def disk(root: Path) -> Iterator[Finding]:
    """Whether there is room for what a training writes."""
    free = shutil.disk_usage(root).free
    level = FAULT if free < NO_DISK else NOTE if free < LOW_DISK else OK
    remedy = "`drtune gc --dry-run` shows what can go, then `dvc gc --workspace`" if level != OK else ""
    yield Finding(level, "disk", f"{free / 1e9:.1f} GB free", remedy)
    if not os.access(root, os.W_OK):
        yield Finding(FAULT, "disk", f"{root} cannot be written", "get the right to write, or set DVC_ROOT")
