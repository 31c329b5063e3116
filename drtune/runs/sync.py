"""What `drtune sync` does: ship what is left in the journals, end dead runs, show cached stages.

A store that was away, a process that was killed, and a stage that DVC restored from its cache all leave the
store without something. Everything here can be repeated: nothing is stored twice.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drtune.base.errors import TrackingError
from drtune.base.files import read_json
from drtune.runs import mlflow_pipeline, store
from drtune.runs.journal import Journal, claim, end_dead, journal_folder, release, ship, unsent
from drtune.runs.mlflow_run import MlflowTarget
from drtune.runs.mlflow_store import connect, end_dead_runs, experiment_of
from drtune.runs.naming import as_text, experiment_name, flat
from drtune.runs.record import git, head, without_userinfo
from drtune.runs.stage_key import is_code, locked_entries, stage_key

log = logging.getLogger(__name__)
MOST_EPOCHS = 2**31


@dataclass
class Synced:
    """What one sync did.

    Attributes:
        shipped: journals that are now complete in the store.
        left: journal -> why it is not.
        busy: journals of living processes, left alone.
        ended: ids of runs that said RUNNING and were dead.
        adopted: stages of dvc.lock that had no run in this store and got one.
        link: where the pipeline run of dvc.lock is; empty without a dvc.lock.
    """

    shipped: list[Path] = field(default_factory=list)
    left: dict[Path, str] = field(default_factory=dict)
    busy: list[Path] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    link: str = ""


def journals_in(root: Path) -> list[Path]:
    """All journals of a store root, oldest first."""
    found = [path for path in journal_folder(root).glob("*.jsonl") if not path.is_symlink()]
    return sorted(found, key=lambda path: path.stem.split("-")[1:])


def sync(root: Path, project: str, lock: Path) -> Synced:
    """Bring the store up to date with the journals and with a dvc.lock.

    Args:
        root: folder of the store and the journals, from `store_root()`.
        project: runs go to the experiment `<project>/pipeline`.
        lock: dvc.lock, which may be absent; outs are looked for beside it.

    Raises:
        TrackingError: the store does not answer; nothing is lost.
    """
    uri = store.store_uri(root)
    try:
        store.check_reachable(uri)
    except ConnectionError as fault:
        raise TrackingError(
            f"{fault}; nothing is lost: start the store, or change MLFLOW_TRACKING_URI, and run `drtune sync`"
        ) from None
    done = Synced()
    for path in journals_in(root):
        ship_one(path, uri, root, done)
    client = connect(uri, root)
    experiment = experiment_of(client, uri, root, experiment_name(project))
    done.ended += mlflow_pipeline.sweep(client, root, experiment)
    if studies := mlflow_pipeline.studies_beside(client, experiment):
        done.ended += end_dead_runs(client, studies, journal_folder(root))
    entries = locked_entries(lock)
    if entries:
        keys = {stage: stage_key(entry) for stage, entry in entries.items()}
        runs = {stage: mlflow_pipeline.run_of_key(client, experiment, key) for stage, key in keys.items()}
        for stage in (stage for stage, run in runs.items() if run is None):
            runs[stage] = adopt(root, uri, project, lock, stage, entries[stage])
            done.adopted.append(stage)
        pipeline = join_pipeline(client, root, experiment, lock, keys, runs)
        done.link = store.link(uri, root, experiment, pipeline)
    return done


def ship_one(path: Path, uri: str, root: Path, done: Synced) -> None:
    """Ship one journal, unless its process lives; a fault is noted, the others go on."""
    descriptor = claim(path)
    if descriptor is None:
        done.busy.append(path)
        return
    try:
        dead = end_dead(path)
        if not dead and unsent(path) == 0:
            return
        target = MlflowTarget(uri, root)
        ship(path, target)
        shutil.rmtree(path.with_suffix(".files"), ignore_errors=True)
        done.shipped.append(path)
        done.ended += [target.run_id] if dead else []
    except Exception as error:
        done.left[path] = store.scrub(f"{type(error).__name__}: {error}").split("\n")[0]
    finally:
        release(descriptor)


def adopt(root: Path, uri: str, project: str, lock: Path, stage: str, entry: Mapping[str, Any]) -> str:
    """Make the run of a cached stage that was made elsewhere, from what dvc.lock and its outs say of it.

    It goes through a journal like any other run, so a kill in between does no harm. It is FINISHED, because
    DVC caches nothing else, and carries `drtune.adopted`: the times are those of the adoption.
    """
    folder = lock.parent
    commit = git(folder, "log", "-1", "--format=%H", "--", lock.name).strip()
    tags = {
        "drtune.kind": "stage",
        "drtune.stage": stage,
        "drtune.stage_key": stage_key(entry),
        "drtune.schema": "1",
        "drtune.adopted": "true",
        "git.commit": commit,
        "dvc.outs": as_text({out["path"]: out.get("md5", "") for out in entry.get("outs", [])}),
    }
    header = {
        "project": project,
        "name": stage,
        "tags": {name: text for name, text in tags.items() if text},
        "stage": stage,
        "stages": {},
        "stage_key": tags["drtune.stage_key"],
        "resume": False,
    }
    name = f"{tags['drtune.stage_key'][:16]}-adopted-{os.getpid()}.jsonl"
    journal = Journal(journal_folder(root) / name, header)
    try:
        params = {name: value for file in entry.get("params", {}).values() for name, value in file.items()}
        journal.write("params", values={name: as_text(value) for name, value in flat(params).items()})
        for dep in entry.get("deps", []):
            if not is_code(dep["path"]):
                md5 = dep.get("md5", "")
                journal.write("input", name=dep["path"], path=dep["path"], md5=md5, context=stage)
        for step, values in numbers_of(folder, [out["path"] for out in entry.get("outs", [])]):
            journal.write("metrics", step=step, values=values)
        journal.write("status", status="FINISHED")
        target = MlflowTarget(uri, root)
        ship(journal.path, target)
        return target.run_id
    finally:
        journal.close()
        journal.release()


def numbers_of(folder: Path, outs: list[str]) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, name -> value) from a history.json, counted by its epochs, and from files of metrics."""
    for out in outs:
        history, metrics = folder / out / "history.json", folder / out
        if history.is_file():
            records = read_json(history)
            for values in map(numbers, records if isinstance(records, list) else []):
                if 0 <= values.get("epoch", -1) <= MOST_EPOCHS:
                    yield int(values["epoch"]), values
        if metrics.suffix == ".json" and metrics.is_file():
            yield 0, numbers(read_json(metrics))


def numbers(values: Any) -> dict[str, float]:
    """The numbers in a file of metrics that a store can hold; none where it is something else."""
    found = flat(values) if isinstance(values, Mapping) else {}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and not abs(value) > 1e308
    }


def join_pipeline(
    client: Any,
    root: Path,
    experiment: str,
    lock: Path,
    keys: Mapping[str, str],
    runs: Mapping[str, str | None],
) -> str:
    """The pipeline run of a dvc.lock, which gets the lock and the settings as files; returns its id."""
    folder = lock.parent
    _, commit, branch = head(folder)
    tags = {
        "git.commit": commit,
        "git.branch": branch,
        "git.remote": without_userinfo(git(folder, "config", "--get", "remote.origin.url").strip()),
        "drtune.schema": "1",
    }
    started = [client.get_run(run).info.start_time for run in runs.values() if run]
    about = {
        "name": mlflow_pipeline.pipeline_name("", branch, commit),
        "tags": {name: text for name, text in tags.items() if text},
        "time": min(started),
        "runs": {stage: run for stage, run in runs.items() if run},
    }
    pipeline = mlflow_pipeline.join(client, root, experiment, keys, about)
    for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
        if (folder / name).is_file():
            client.log_artifact(pipeline, str(folder / name), "provenance")
    if commit and not git(folder, "status", "--porcelain", "--", lock.name).strip():
        client.set_tag(pipeline, "drtune.lock_commit", commit)
    return pipeline
