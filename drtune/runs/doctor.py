"""What `drtune doctor` looks at: everything around a run that can be wrong without anyone noticing."""

import importlib.metadata
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from drtune.base.cards import cards
from drtune.runs import store
from drtune.runs.journal import ENDED, claim, journal_folder, last_status, release, unsent
from drtune.runs.lifecycle import LOCK
from drtune.runs.mlflow_store import connect, dead_runs
from drtune.runs.moved import follow
from drtune.runs.naming import experiment_name
from drtune.runs.record import git
from drtune.runs.sync import journals_in

OK, NOTE, FAULT = "ok", "note", "FAULT"
LOW_DISK, NO_DISK = 5e9, 1e9
"""Bytes below which a training may fill the disk, and below which it will."""
DVC_SECONDS = 300.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `level` ok, note or FAULT; what was found; what to do about it."""

    level: str
    about: str
    found: str
    remedy: str = ""


def examine(root: Path, folder: Path, project: str) -> list[Finding]:
    """Look at everything; changes nothing, but that the store of a project that was moved finds its files.

    Args:
        root: folder of the store and the journals.
        folder: holds dvc.yaml and dvc.lock.
        project: runs are in the experiment `<project>/pipeline`.
    """
    looks: list[Callable[[], Iterator[Finding]]] = [
        packages,
        device,
        lambda: version_control(folder),
        lambda: place(folder),
        lambda: in_step(folder),
        lambda: tracking_store(root, project),
        lambda: journals(root),
        lambda: locks(root),
        telemetry,
        lambda: disk(root),
    ]
    return [finding for look in looks for finding in look()]


def packages() -> Iterator[Finding]:
    """Whether the installed packages are those that this project asks for."""
    wrong = []
    for text in importlib.metadata.requires("drtune-pipeline") or []:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(Version(found).public, prereleases=True):
            wrong.append(f"{wanted.name} is {found}, wanted {wanted.specifier}")
    python = ".".join(map(str, sys.version_info[:3]))
    if wrong:
        yield Finding(FAULT, "packages", "; ".join(wrong), "install requirements.lock again: `make repro`")
    else:
        yield Finding(OK, "packages", f"Python {python}, all that the project asks for")


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
    if commit := git(folder, "rev-parse", "--short", "HEAD").strip():
        yield Finding(OK, "git", f"commit {commit}")
    elif (folder / ".git").exists():
        remedy = (
            "commit once; where git calls the owner dubious: `git config --global --add safe.directory '*'`"
        )
        yield Finding(FAULT, "git", f"{folder}: no commit can be read", remedy)
    else:
        yield Finding(FAULT, "git", f"{folder} is no git repository", "`git init` and commit, or `dvc` fails")


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
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=DVC_SECONDS, check=False
        )
        changed = [name for name in json.loads(done.stdout) if ":" not in name]  # stages of this dvc.yaml
    except (OSError, ValueError, subprocess.TimeoutExpired):
        yield Finding(FAULT, "dvc.lock", "`dvc status` fails", "run it by hand and mend what it says")
        return
    if changed:
        yield Finding(NOTE, "dvc.lock", f"not in step: {', '.join(changed)}", "`dvc repro`")
    else:
        yield Finding(OK, "dvc.lock", "in step with code, settings and data")


def tracking_store(root: Path, project: str) -> Iterator[Finding]:
    """Whether the store answers, has this version's tables, keeps a write-ahead log, and tells the truth."""
    uri = store.store_uri(root)
    shown, database = store.scrub(uri), store.sqlite_path(uri)
    if database and not database.exists():
        yield Finding(NOTE, "store", f"{shown}: there is none yet", "the first stage makes it")
        return
    try:
        store.check_reachable(uri)
        yield from write_ahead_log(database) if database else server_version(uri)
        for before in follow(database, root) if database else []:
            yield Finding(NOTE, "store", f"came from {before}; its runs find their files here now")
        client = connect(uri, root)
        experiment = client.get_experiment_by_name(experiment_name(project))
        dead = dead_runs(client, experiment.experiment_id, journal_folder(root)) if experiment else {}
    except Exception as error:
        reason = store.scrub(str(error)).split("\n")[0]
        remedy = "start it, or change MLFLOW_TRACKING_URI; after an update of MLflow: `mlflow db upgrade`"
        yield Finding(FAULT, "store", f"{shown}: {reason}", remedy)
        return
    yield Finding(OK, "store", f"{shown} answers")
    if dead:
        runs = ", ".join(run[:8] for run in dead)
        yield Finding(
            FAULT, "runs", f"{len(dead)} say RUNNING and are dead: {runs}", "`drtune sync` ends them"
        )
    else:
        yield Finding(OK, "runs", "every RUNNING run has a living process")


def write_ahead_log(database: Path) -> Iterator[Finding]:
    """Readers and writers of a sqlite store block each other without it."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode == "wal":
        yield Finding(OK, "write-ahead log", "on")
    else:
        yield Finding(FAULT, "write-ahead log", f"journal_mode is {mode}", "`drtune sync` sets it")


def server_version(uri: str) -> Iterator[Finding]:
    """Whether a server has the MLflow that this environment has."""
    if not store.is_server(uri) or uri.startswith("databricks"):
        return
    here = importlib.metadata.version("mlflow")
    with urllib.request.urlopen(
        f"{store.scrub(uri).rstrip('/')}/version", timeout=store.PROBE_SECONDS
    ) as answer:
        there = answer.read().decode(errors="replace").strip()
    if there.split(".")[:2] == here.split(".")[:2]:
        yield Finding(OK, "store version", f"MLflow {there}")
    else:
        remedy = "install the same minor version on both sides"
        yield Finding(
            NOTE, "store version", f"the server has MLflow {there}, this environment {here}", remedy
        )


def journals(root: Path) -> Iterator[Finding]:
    """Whether every journal of an ended process is in the store, with its end."""
    waiting, busy, cut = 0, 0, 0
    for path in journals_in(root):
        descriptor = claim(path)
        if descriptor is None:
            busy += 1
            continue
        waiting += unsent(path) > 0
        cut += last_status(path) not in ENDED
        release(descriptor)
    if waiting or cut:
        found = f"{waiting} not shipped completely, {cut} of killed processes"
        yield Finding(FAULT, "journals", found, "`drtune sync` ships and ends them")
    else:
        yield Finding(OK, "journals", f"all shipped; {busy} in use")


def locks(root: Path) -> Iterator[Finding]:
    """Which checkpoints are held, and whether a checkpoint waits for its training to go on."""
    held, waiting = [], 0
    for folder in sorted((root / ".drtune" / "ckpt").glob("*/")):
        descriptor = claim(folder / LOCK) if (folder / LOCK).exists() else None
        if descriptor is None and (folder / LOCK).exists():
            held.append(f"{folder.name[:12]} by pid {(folder / LOCK).read_text().strip()}")
        elif descriptor is not None:
            waiting += len(os.listdir(folder)) > 1
            release(descriptor)
    text = f"held: {', '.join(held)}" if held else "none held"
    yield Finding(OK, "locks", text)
    if waiting:
        found = f"{waiting} left by trainings that were stopped"
        yield Finding(
            NOTE, "checkpoints", found, "`dvc repro` goes on from them; `drtune gc` clears finished ones"
        )


def telemetry() -> Iterator[Finding]:
    """Whether a tool reports its use to its makers."""
    store.set_defaults()
    said = [name for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK") if is_on(name)]
    if said:
        yield Finding(OK, "telemetry", f"MLflow's is off in all stages ({said[0]})")
    else:
        remedy = "unset MLFLOW_DISABLE_TELEMETRY or set it to true"
        yield Finding(NOTE, "telemetry", "MLflow's is on, because the environment says so", remedy)
    command = [sys.executable, "-m", "dvc", "config", "core.analytics"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DVC_SECONDS, check=False)
    if done.stdout.strip() == "false" or is_on("DVC_NO_ANALYTICS"):
        yield Finding(OK, "analytics", "DVC's are off")
    else:
        yield Finding(NOTE, "analytics", "DVC's are on", "`dvc config core.analytics false`")


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
