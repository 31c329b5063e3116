"""A project that was moved or copied: MLflow's store names the files of its runs by absolute paths."""

import logging
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote

log = logging.getLogger(__name__)

FILES = "/mlruns/"
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where mlflow 3.17 keeps addresses of files: tables and their columns."""


def follow(database: Path, root: Path) -> list[str]:
    """Let a store that came here with its files find them here; a store in another folder is left alone.

    Args:
        database: a sqlite store; one that cannot be read or written is left for MLflow to tell.
        root: folder of the store; the files are in `root/mlruns`.

    Returns:
        The folders that the store took for its root until now.
    """
    here = root.resolve()
    if database.resolve().parent != here:
        return []
    befores: set[str] = set()
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        held = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        befores = {before for (place,) in held if (before := root_elsewhere(place or "", here))}
        for before in befores:
            now = here.as_uri() if before.startswith("file:") else str(here)
            for table, column in ADDRESSES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE instr({column}, ?) = 1",
                    (now, len(before) + 1, before + FILES),
                )
    for before in befores:
        log.warning("the project was at %s: its runs find their files in %s now", as_path(before), root)
    return sorted(map(as_path, befores))


def root_elsewhere(place: str, here: Path) -> str:
    """The root that an experiment's address names, if it is another but its files are here; else empty."""
    before, _, name = place.rpartition(FILES)
    path = as_path(before)
    if not path.startswith("/") or Path(path).resolve() == here:
        return ""
    return before if (here / "mlruns" / unquote(name)).is_dir() else ""


def as_path(address: str) -> str:
    """The path of a `file:` address; MLflow keeps plain paths too."""
    return unquote(address.removeprefix("file://")) if address.startswith("file://") else address
