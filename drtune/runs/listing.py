"""The table of `drtune runs`."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from rich.table import Table
from rich.text import Text

from drtune.base.errors import TrackingError, shown
from drtune.runs.run_store import SHORT, RunStore, StoredRun

HEADLINES = ("test.accuracy", "test.nll", "best_val_accuracy", "images_per_second", "images_train")
"""Metrics worth a place, at most two a run, the first that it has."""
SHOWN = 2
KEY = "tags.`drtune.stage_key` = "
COLOURS = {"FINISHED": "green", "FAILED": "red", "KILLED": "yellow", "RUNNING": "cyan"}


@dataclass(frozen=True)
class Row:
    """One line: a run, or a stage that no run of this store has made."""

    stage: str
    key: str
    run: StoredRun | None


def runs_of_keys(store: RunStore, keys: Mapping[str, str]) -> list[Row]:
    """Every run of these stages, wherever it was made; a stage of the top folder without one has a row too.

    Args:
        store: where to look.
        keys: stage name -> stage key, see `commits.stage_keys`.
    """
    rows = []
    for stage, key in keys.items():
        found = list(store.search(f"{KEY}'{key}'"))
        rows += [Row(stage, key, run) for run in found] or [Row(stage, key, None)] * ("/" not in stage)
    return rows


def chosen(store: RunStore, key: str, method: str, limit: int) -> list[Row]:
    """The newest runs: of all, of one key (or its first digits), of one method.

    Raises:
        TrackingError: a key that is none.
    """
    if key and not set(key) <= set("0123456789abcdef"):
        raise TrackingError(f"--key {key}: expected hexadecimal digits, as the column key shows them")
    text = f"tags.`drtune.stage_key` LIKE '{key}%'" if key else ""
    rows = []
    for run in store.search(text):
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
    experiment = run.tags.get("dvc.exp_name", "")
    return f"{run.commit[:SHORT]}{mark}" + (f" {experiment}" if experiment else "")


def plain(text: str) -> Text:
    """A cell that says what the store says, without the store's colours, links and cursor movements."""
    return Text(shown(text))


def as_table(rows: Iterable[Row], store: RunStore) -> Table:
    """A table; run ids link to their pages where the terminal can and a server shows them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("started", "stage", "status", "method", "run", "key", "commit"):
        table.add_column(name, no_wrap=True)
    table.add_column("metrics", overflow="fold")
    for row in rows:
        run = row.run
        if run is None:
            table.add_row(
                "", plain(row.stage), "no run", "", "", row.key[:SHORT], "", "not made in this store"
            )
            continue
        link = store.link(run)
        table.add_row(
            datetime.fromtimestamp(run.started / 1000).strftime("%Y-%m-%d %H:%M"),
            plain(row.stage),
            Text(run.status, style=COLOURS.get(run.status, "")),
            plain(run.method),
            Text(run.run_id[:SHORT], style=f"link {link}" if link.startswith("http") else ""),
            plain(row.key[:SHORT]),
            plain(code_of(run)),
            headline(run),
        )
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
