"""The one door to MLflow: a project's store, its experiments and runs. What it cannot do is one sentence."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from drtune.base.errors import TrackingError
from drtune.base.files import replacing
from drtune.runs import store
from drtune.runs.journal import ENDED, journal_folder, last_status
from drtune.runs.lifecycle import claim, process_is_gone, release
from drtune.runs.moved import follow
from drtune.runs.naming import PROJECT, experiment_name

PAGE = 1000
ACTIVE, DELETED, ALL = 1, 2, 3
"""MLflow's `ViewType`."""
NEWEST = ["attributes.start_time DESC"]
SHORT = 8
"""Characters of a run id, key or commit that tables show."""
LOCK_SECONDS = 60.0
NONE_YET = (
    "there is no tracking store; 'dvc repro' makes it with the first run, `drtune sync` from the journals of "
    "earlier ones. Run this in the project's folder, or name the store in MLFLOW_TRACKING_URI"
)


@dataclass(frozen=True)
class StoredRun:
    """One run as the store has it; `started` in milliseconds of Unix time."""

    run_id: str
    name: str
    status: str
    started: int
    experiment_id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def stage(self) -> str:
        """Name of the stage, empty for a run of another kind."""
        return self.tags.get("drtune.stage", "")

    @property
    def key(self) -> str:
        """Its stage key, empty where it has none."""
        return self.tags.get("drtune.stage_key", "")

    @property
    def commit(self) -> str:
        """Commit of the code; the tag `git.dirty` says whether there is a patch too."""
        return self.tags.get("git.commit", "")

    @property
    def method(self) -> str:
        """Method that was trained or measured; empty for the stages before."""
        words = self.name.split()
        follows = self.stage.partition("@")[0] in ("train", "evaluate") and len(words) > 1
        return self.params.get("train.method", "") or (words[1] if follows else "")

    @property
    def about(self) -> str:
        """How messages name it."""
        return f"run {self.run_id[:SHORT]} ({self.name})"


class RunStore:
    """The store that the stages of the folder `root` log to; `make`: make a local one that is missing.

    Every method raises a `TrackingError` where the store cannot be used, and at once where there is none.
    """

    def __init__(self, root: Path, make: bool = False, project: str = PROJECT) -> None:
        store.set_defaults()
        self.root, self.uri, self.project = root, store.store_uri(root), project
        self.moved_from: list[str] = []  # see `moved.follow`; known once there is a `client`
        self.database = store.sqlite_path(self.uri)
        if self.database and not make and not has_content(self.database):
            raise TrackingError(f"{self.database}: {NONE_YET}")
        with store.in_words(self.uri):
            store.check_reachable(self.uri)

    @cached_property
    def client(self) -> store.Worded:
        """An `MlflowClient`; a database that may be empty is first used by one process at a time."""
        with store.in_words(self.uri):
            from mlflow import MlflowClient

            address = store.for_mlflow(self.uri)
            # its tracebacks would stand between our sentences
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
            if self.database and not has_content(self.database):
                with FileLock(f"{self.database}.lock", timeout=LOCK_SECONDS):
                    prepare_database(self.database, self.root)
            if self.database:
                store.use_write_ahead_log(self.database)
            if self.database or store.is_server(self.uri):
                client = MlflowClient(address, address)  # refuses a database of another version
                self.moved_from = follow(self.database, self.root) if self.database else []
                return store.Worded(client, self.uri)
            (self.root / ".drtune").mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".drtune" / "store.lock", timeout=LOCK_SECONDS):
                client = MlflowClient(address, address)
                client.search_experiments(max_results=1)
                return store.Worded(client, self.uri)

    def experiment(self, name: str) -> str:
        """Id of an experiment; made where it is missing, with its artifacts in the store root."""
        found = self._active(name)
        if found is None:
            folder = None if store.is_server(self.uri) else (self.root / "mlruns" / name).as_uri()
            tags = {"mlflow.experimentKind": "custom_model_development"}
            try:
                return str(self.client.create_experiment(name, artifact_location=folder, tags=tags))
            except TrackingError:
                if (found := self._active(name)) is None:  # another process may have been first
                    raise
        return found

    def _active(self, name: str) -> str | None:
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":
            raise TrackingError(
                f"experiment {name} is deleted; bring it back with `mlflow experiments restore -x "
                f"{found.experiment_id}`: {store.scrub(self.uri)} still holds its runs"
            )
        return str(found.experiment_id) if found else None

    def search(self, text: str = "", limit: int | None = None, view: int = ACTIVE) -> Iterator[StoredRun]:
        """Runs that a filter in MLflow's language chooses, newest first, of all experiments."""
        self._active(experiment_name(self.project))
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        how = {"order_by": NEWEST, "run_view_type": view}
        token, given = None, 0
        while experiments and (limit is None or given < limit):
            most = min(PAGE, limit - given if limit else PAGE)
            page = self.client.search_runs(experiments, text, max_results=most, page_token=token, **how)
            yield from map(_as_stored, page)
            given, token = given + len(page), page.token
            if not token:
                return

    def get(self, name: str) -> StoredRun:
        """The run with this id, the beginning of it, or this name if only one has it."""

        def called(view: int) -> list[StoredRun]:
            return [run for run in self.search(view=view) if run.run_id.startswith(name) or run.name == name]

        runs = called(ACTIVE)
        exact = [run for run in runs if run.run_id == name]
        if len(exact or runs) == 1:
            return (exact or runs)[0]
        if runs:
            found = ", ".join(f"{run.run_id[:SHORT]} ({run.name})" for run in runs[:SHORT])
            raise TrackingError(f"run {name!r}: {len(runs)} runs are called so: {found}; give more of the id")
        if gone := called(DELETED):
            back = f"bring it back with `mlflow runs restore --run-id {gone[0].run_id}`"
            raise TrackingError(f"run {name!r}: is deleted in {store.scrub(self.uri)}; {back}")
        raise TrackingError(
            f"run {name!r}: no such run in {store.scrub(self.uri)}; `drtune runs` lists those there are, "
            "`drtune sync` brings those of the journals"
        )

    def fetch(self, run: StoredRun, name: str, folder: Path) -> Path | None:
        """Copy one artifact of a run into a folder; None where the run does not hold it."""
        listed = self.client.list_artifacts(run.run_id, os.path.dirname(name) or None)
        if name not in {file.path for file in listed}:
            return None
        return Path(self.client.download_artifacts(run.run_id, name, str(folder)))

    def link(self, run: StoredRun) -> str:
        """Where a person looks at it."""
        return store.link(self.uri, self.root, run.experiment_id, run.run_id)

    def register(self, name: str, run: StoredRun, artifact: str, tags: Mapping[str, str], alias: str) -> str:
        """Make a new version of a registered model from an artifact of a run; returns its number."""
        try:
            self.client.get_registered_model(name)
        except TrackingError:
            self.client.create_registered_model(name)
        source = f"{self.client.get_run(run.run_id).info.artifact_uri}/{artifact}"
        made = self.client.create_model_version(name, source, run.run_id, tags=dict(tags))
        if alias:
            self.client.set_registered_model_alias(name, alias, made.version)
        return str(made.version)

    def dead_runs(self, experiment: str) -> dict[str, int]:
        """Runs that say RUNNING although their process is gone: run id -> when it was last alive, in ms.

        A journal tells by its lock; without one the process does, if it ran on this host.
        """
        dead = {}
        for run in self.client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=PAGE):
            tags = run.data.tags
            name = Path(tags.get("drtune.journal", "").split(" ")[-1]).name or "none"
            journal = journal_folder(self.root) / f"{name}.jsonl"
            if journal.exists():
                if (lock := claim(journal)) is None:
                    continue
                if last_status(journal) not in ENDED:  # else the end is known and only has to be shipped
                    dead[run.info.run_id] = int(journal.stat().st_mtime * 1000)
                release(lock)
            elif process_is_gone(tags):
                dead[run.info.run_id] = time.time_ns() // 1_000_000
        return dead

    def end_dead_runs(self, experiment: str) -> list[str]:
        """Give the dead runs their true status, KILLED, and the tag `drtune.orphaned`; returns their ids."""
        dead = self.dead_runs(experiment)
        for run, ended in dead.items():
            self.client.set_tag(run, "drtune.orphaned", "true")
            self.client.set_terminated(run, "KILLED", ended)
        return list(dead)


def has_content(database: Path) -> bool:
    """Whether there is a database; an empty file is none."""
    return database.is_file() and database.stat().st_size > 0


def prepare_database(path: Path, root: Path) -> None:
    """Make a sqlite store complete before it gets its name; `root` gets the artifacts of `Default` too.

    A first use by two processes, or one cut short, can spoil MLflow's database for good: hold a lock here.
    """
    if has_content(path):
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in ("-wal", "-shm"):  # of a database that was deleted: they would be read into the new one
        path.with_name(path.name + left).unlink(missing_ok=True)
    with replacing(path) as fresh:
        SqlAlchemyStore(
            store.for_mlflow(store.sqlite_uri(fresh)), (root / "mlruns").as_uri()
        ).engine.dispose()


def _as_stored(run: Any) -> StoredRun:
    info, data = run.info, run.data
    about = info.run_id, info.run_name or "", info.status, info.start_time or 0, info.experiment_id
    return StoredRun(*about, data.tags, data.params, data.metrics)
