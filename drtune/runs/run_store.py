"""Reading a tracking store: find runs, fetch what they hold, register models. Writes no run."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from drtune.base.errors import TrackingError
from drtune.runs import store
from drtune.runs.moved import follow

PAGE = 1000
SHORT = 8
"""Characters of a run id, key or commit that tables show."""


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
        named = self.params.get("train.method", "")
        words = self.name.split()
        follows = self.stage.partition("@")[0] in ("train", "evaluate") and len(words) > 1
        return named or (words[1] if follows else "")


class RunStore:
    """The store that the stages of this folder log to.

    Args:
        root: folder of the store, see `stage_key.store_root`.

    Raises:
        TrackingError: there is none yet, or it does not answer.
    """

    def __init__(self, root: Path) -> None:
        store.set_defaults()
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self.root, self.uri = root, store.store_uri(root)
        database = store.sqlite_path(self.uri)
        if database and not database.is_file():
            raise TrackingError(
                f"{database}: there is no tracking store; 'dvc repro' makes it with the first run. "
                "Run this in the project's folder, or name the store in MLFLOW_TRACKING_URI"
            )
        try:
            store.check_reachable(self.uri)
        except ConnectionError as fault:
            raise TrackingError(f"{fault}; start the store, or change MLFLOW_TRACKING_URI") from None

    @cached_property
    def client(self) -> Any:
        """An `MlflowClient` of the store."""
        from mlflow import MlflowClient

        database, uri = store.sqlite_path(self.uri), store.for_mlflow(self.uri)
        if database:
            follow(database, self.root)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)

    def search(self, text: str = "", limit: int | None = None) -> Iterator[StoredRun]:
        """Runs that a filter in MLflow's language chooses, newest first, of all experiments.

        Raises:
            TrackingError: the store cannot be used.
        """
        experiments = [found.experiment_id for found in self._ask(self.client.search_experiments)]
        token, given = None, 0
        while experiments and (limit is None or given < limit):
            page = self._ask(
                self.client.search_runs,
                experiments,
                text,
                max_results=min(PAGE, limit - given if limit else PAGE),
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            yield from map(as_stored, page)
            given, token = given + len(page), page.token
            if not token:
                return

    def get(self, name: str) -> StoredRun:
        """The run with this id, the beginning of it, or this name if only one has it.

        Raises:
            TrackingError: none, or several; the message lists them.
        """
        runs = [run for run in self.search() if run.run_id.startswith(name) or run.name == name]
        exact = [run for run in runs if run.run_id == name]
        if len(exact or runs) == 1:
            return (exact or runs)[0]
        if not runs:
            raise TrackingError(
                f"run {name!r}: no such run in {store.scrub(self.uri)}; `drtune runs` lists those there are"
            )
        found = ", ".join(f"{run.run_id[:SHORT]} ({run.name})" for run in runs[:SHORT])
        raise TrackingError(f"run {name!r}: {len(runs)} runs are called so: {found}; give more of the id")

    def fetch(self, run: StoredRun, name: str, folder: Path) -> Path | None:
        """Copy one artifact of a run into a folder; None where the run does not hold it.

        Raises:
            TrackingError: the store's files cannot be reached.
        """
        parent = os.path.dirname(name)
        listed = self._ask(self.client.list_artifacts, run.run_id, parent or None)
        if name not in {file.path for file in listed}:
            return None
        return Path(self._ask(self.client.download_artifacts, run.run_id, name, str(folder)))

    def link(self, run: StoredRun) -> str:
        """Where a person looks at it."""
        return store.link(self.uri, self.root, run.experiment_id, run.run_id)

    def register(self, name: str, run: StoredRun, artifact: str, tags: Mapping[str, str], alias: str) -> str:
        """Make a new version of a registered model from an artifact of a run; returns its number.

        Raises:
            TrackingError: the registry refuses the name or the alias.
        """
        from mlflow.exceptions import MlflowException, RestException

        try:
            self.client.get_registered_model(name)
        except (MlflowException, RestException):
            self._ask(self.client.create_registered_model, name)
        location = self._ask(self.client.get_run, run.run_id).info.artifact_uri
        made = self._ask(
            self.client.create_model_version, name, f"{location}/{artifact}", run.run_id, tags=dict(tags)
        )
        if alias:
            self._ask(self.client.set_registered_model_alias, name, alias, made.version)
        return str(made.version)

    def add(self, run: StoredRun, path: Path) -> None:
        """Attach a file or folder to a run."""
        self._ask(self.client.log_artifact, run.run_id, str(path))

    def _ask(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the store; what it answers instead becomes a fault in words."""
        from mlflow.exceptions import MlflowException

        try:
            return call(*args, **kwargs)
        except (MlflowException, OSError) as fault:
            reason = store.scrub(str(fault)).split("\n")[0]
            raise TrackingError(f"{store.scrub(self.uri)}: {reason}") from None


def as_stored(run: Any) -> StoredRun:
    """Plain values of an MLflow run."""
    info, data = run.info, run.data
    return StoredRun(
        info.run_id,
        info.run_name or "",
        info.status,
        info.start_time or 0,
        info.experiment_id,
        data.tags,
        data.params,
        data.metrics,
    )
