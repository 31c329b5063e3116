"""The table of `drtune runs`: the newest runs, or those that made the results of a commit."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from drtune.base.errors import TrackingError, shown
from drtune.runs.record import PATIENT, git
from drtune.runs.run_store import SHORT, RunStore, StoredRun
from drtune.runs.stage_key import stage_key

HEADLINES = ("test.accuracy", "test.nll", "best_val_accuracy", "images_per_second", "images_train")
"""Metrics worth a place, at most two a run, the first that it has."""
SHOWN = 2
KEY = "tags.`drtune.stage_key`"
COLOURS = {"FINISHED": "green", "FAILED": "red", "KILLED": "yellow", "RUNNING": "cyan"}


@dataclass(frozen=True)
class Row:
    """One line: a run, or a stage that no run of this store has made."""

    stage: str
    key: str
    run: StoredRun | None


def resolve_commit(root: Path, revision: str) -> str:
    """SHA of a commit, branch, tag or DVC experiment. TrackingError: git knows none of this name here."""
    asked = "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    found = git(root, "rev-parse", *asked, seconds=PATIENT).strip()
    if not found:  # the name of a DVC experiment, refs/exps/<2>/<38>/<name>
        form = "--format=%(objectname) %(refname)"
        refs = git(root, "for-each-ref", form, "refs/exps", seconds=PATIENT).splitlines()
        found = next((line.split()[0] for line in refs if line.endswith(f"/{revision}")), "")
    if not found:
        raise TrackingError(
            f"{revision}: no such commit, branch, tag or experiment in {root}; "
            "see `git log --all` and `dvc exp list`, or fetch it with `git fetch`"
        )
    return found


def stage_keys(root: Path, revision: str) -> dict[str, str]:
    """Stage -> stage key of every entry in the dvc.lock files of a commit.

    Stages of a dvc.lock below the top folder are named with it, `pretrain/train`.

    Raises:
        TrackingError: no such commit, or it holds no dvc.lock, or one that is no YAML.
    """
    commit = resolve_commit(root, revision)
    listed = git(root, "ls-tree", "-r", "--name-only", "--full-tree", "-z", commit, seconds=PATIENT)
    locks = [name for name in listed.split("\0") if name == "dvc.lock" or name.endswith("/dvc.lock")]
    if not locks:
        raise TrackingError(f"{revision}: holds no dvc.lock; commit it after `dvc repro`")
    keys: dict[str, str] = {}
    for name in locks:
        try:
            lock = YAML(typ="safe", pure=True).load(git(root, "show", f"{commit}:{name}", seconds=PATIENT))
        except YAMLError as fault:
            raise TrackingError(f"{name} in {revision}: not valid YAML\n{fault}") from None
        folder = name.removesuffix("dvc.lock")
        stages = (lock or {}).get("stages") or {}
        keys |= {f"{folder}{stage}": stage_key(entry) for stage, entry in stages.items()}
    return keys


def runs_of_keys(store: RunStore, keys: Mapping[str, str]) -> list[Row]:
    """Every run of these stages, wherever it was made; a stage of the top folder without one has a row too.

    `keys`: stage name -> stage key, see `stage_keys`.
    """
    rows = []
    for stage, key in keys.items():
        found = list(store.search(f"{KEY} = '{key}'"))
        rows += [Row(stage, key, run) for run in found] or [Row(stage, key, None)] * ("/" not in stage)
    return rows


def chosen(store: RunStore, key: str, method: str, limit: int) -> list[Row]:
    """The newest runs: of all, of one key (or its first digits), of one method.

    TrackingError: a key that is none.
    """
    if not set(key) <= set("0123456789abcdef"):
        raise TrackingError(f"--key {key}: expected hexadecimal digits, as the column key shows them")
    rows: list[Row] = []
    for run in store.search(f"{KEY} LIKE '{key}%'" if key else ""):
        if not method or run.method == method:
            rows.append(Row(run.stage or run.tags.get("drtune.kind", ""), run.key, run))
        if len(rows) == limit:
            break
    return rows


def headline(run: StoredRun) -> str:
    """The few numbers by which a run is known."""
    found = [name for name in HEADLINES if name in run.metrics][:SHOWN]
    return "  ".join(f"{name} {run.metrics[name]:.4g}" for name in found)


def code_of(run: StoredRun) -> str:
    """Short commit; `+` where uncommitted code ran too, then the DVC experiment."""
    mark = "+" if run.tags.get("git.dirty") == "true" else ""
    return f"{run.commit[:SHORT]}{mark} {run.tags.get('dvc.exp_name', '')}".rstrip()


def as_table(rows: Iterable[Row], store: RunStore) -> Table:
    """A table; run ids link to their pages where the terminal can and a server shows them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("started", "stage", "status", "method", "run", "key", "commit"):
        table.add_column(name, no_wrap=True)
    table.add_column("metrics", overflow="fold")
    for row in rows:
        # what the store says, without its colours, links and cursor movements
        run, stage, key = row.run, Text(shown(row.stage)), Text(shown(row.key[:SHORT]))
        if run is None:
            table.add_row("", stage, "no run", "", "", key, "", "not made in this store")
            continue
        started = datetime.fromtimestamp(run.started / 1000).strftime("%Y-%m-%d %H:%M")
        status, link = Text(run.status, style=COLOURS.get(run.status, "")), store.link(run)
        linked = Text(run.run_id[:SHORT], style=f"link {link}" if link.startswith("http") else "")
        method, code = Text(shown(run.method)), Text(shown(code_of(run)))
        table.add_row(started, stage, status, method, linked, key, code, headline(run))
    return table


def as_json(rows: Iterable[Row], store: RunStore) -> str:
    """The same rows, complete, for other programs."""
    found = []
    for row in rows:
        known: dict[str, object] = {"stage": row.stage, "key": row.key, "run": None}
        if run := row.run:
            known |= {"run": run.run_id, "name": run.name, "status": run.status, "started": run.started}
            known |= {"method": run.method, "commit": run.commit, "link": store.link(run)}
            known |= {"dirty": run.tags.get("git.dirty") == "true", "metrics": dict(run.metrics)}
        found.append(known)
    return json.dumps(found, indent=2)
