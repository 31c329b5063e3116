"""The MLflow store: opened without breaking it, and the runs in it whose process is gone."""

import logging
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from drtune.base.files import replacing
from drtune.runs import store
from drtune.runs.journal import ENDED, claim, last_status, release
from drtune.runs.lifecycle import process_is_gone
from drtune.runs.moved import follow

log = logging.getLogger(__name__)

LOCK_SECONDS = 60.0
MOST_RUNS = 1000
"""What one search returns."""


def connect(uri: str, root: Path) -> Any:
    """An `MlflowClient`; a database that may be empty is first used by one process at a time.

    Args:
        uri: from `store.store_uri`.
        root: folder of the store and of its locks.
    """
    store.set_defaults()
    from mlflow import MlflowClient

    database = store.sqlite_path(uri)
    if database and not database.exists():
        with FileLock(f"{database}.lock", timeout=LOCK_SECONDS):
            prepare_database(database, root)
    if database:
        store.use_write_ahead_log(database)
        follow(database, root)
    if database or store.is_server(uri):
        return MlflowClient(tracking_uri=store.for_mlflow(uri))
    (root / ".drtune").mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".drtune" / "store.lock", timeout=LOCK_SECONDS):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        return client


def prepare_database(path: Path, root: Path) -> None:
    """Make a sqlite store complete before it gets its name, so that a kill leaves none half made.

    A first use by two processes, or one cut short, can spoil MLflow's database for good: hold a lock here.
    MLflow's own experiment `Default` gets its artifacts in `root` too.
    """
    if not path.exists():
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        with replacing(path) as fresh:
            uri = store.for_mlflow(store.sqlite_uri(fresh))
            SqlAlchemyStore(uri, (root / "mlruns").as_uri()).engine.dispose()


def experiment_of(client: Any, uri: str, root: Path, name: str) -> str:
    """Id of an experiment; made where it is missing, with its artifacts in the store root.

    Raises:
        RuntimeError: it was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        folder = None if store.is_server(uri) else (root / "mlruns" / name).as_uri()
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, artifact_location=folder, tags=tags))
        except Exception:
            found = client.get_experiment_by_name(name)  # another process may have been first
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        remedy = f"bring it back with `mlflow experiments restore -x {found.experiment_id}`"
        raise RuntimeError(f"experiment {name} is deleted; {remedy}")
    return str(found.experiment_id)


def dead_runs(client: Any, experiment: str, journals: Path) -> dict[str, int]:
    """Runs that say RUNNING although their process is gone: run id -> when it was last alive, in ms.

    A journal in `journals` tells by its lock; without one the process does, if it ran on this host.
    """
    dead = {}
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=MOST_RUNS)
    for run in running:
        tags = run.data.tags
        journal = journals / f"{Path(tags.get('drtune.journal', 'none')).name}.jsonl"
        if journal.exists():
            if (lock := claim(journal)) is None:
                continue
            if last_status(journal) not in ENDED:  # else the end is known and only has to be shipped
                dead[run.info.run_id] = int(journal.stat().st_mtime * 1000)
            release(lock)
        elif process_is_gone(tags):
            dead[run.info.run_id] = time.time_ns() // 1_000_000
    return dead


def end_dead_runs(client: Any, experiment: str, journals: Path) -> list[str]:
    """Give the dead runs their true status, KILLED, and the tag `drtune.orphaned`; returns their ids."""
    dead = dead_runs(client, experiment, journals)
    for run, ended in dead.items():
        client.set_tag(run, "drtune.orphaned", "true")
        client.set_terminated(run, "KILLED", ended)
    return list(dead)


def run_of(client: Any, run: str) -> Any:
    """A run by its id; None where the store has it no more."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def is_refusal(error: Exception) -> bool:
    """Whether the store understood and said no (400), which no later try changes."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() == 400


def refused(what: str, error: Exception) -> None:
    """Say what the store does not hold."""
    log.warning("tracking store: refuses %s: %s", what, store.scrub(str(error)).split("\n")[0][:500])
