"""What `drtune sync` does: ship what is left in the journals, end dead runs, show cached stages.

A store that was away or lost, a process that was killed, and a stage that DVC restored from its cache all
leave the store without something. Everything here can be repeated: nothing is stored twice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drtune.base.errors import TrackingError
from drtune.base.files import read_json
from drtune.runs import mlflow_pipeline, store
from drtune.runs.journal import (
    Shipper,
    end_dead,
    header,
    header_of,
    journal_folder,
    journals_in,
    open_journal,
    ship,
    unsent,
)
from drtune.runs.lifecycle import claim, release
from drtune.runs.mlflow_run import MlflowTarget
from drtune.runs.naming import as_text, experiment_name, flat
from drtune.runs.record import git, head, remote_of
from drtune.runs.run import StageRun
from drtune.runs.run_store import ALL, DELETED, RunStore
from drtune.runs.stage_key import is_code, locked_entries, stage_key

MOST_EPOCHS = 2**31
TORN = "torn"
"""Folder beside the journals for those whose first line is torn."""


@dataclass
class Synced:
    """What one sync did."""

    shipped: list[Path] = field(default_factory=list)  # journals that are now complete in the store
    left: dict[Path, str] = field(default_factory=dict)  # journal -> why it is not
    torn: dict[Path, str] = field(default_factory=dict)  # journal without a first line -> what became of it
    busy: list[Path] = field(default_factory=list)  # journals of living processes, left alone
    ended: list[str] = field(default_factory=list)  # ids of runs that said RUNNING and were dead
    adopted: list[str] = field(default_factory=list)  # stages of dvc.lock that had no run and got one
    deleted: dict[str, str] = field(default_factory=dict)  # stages of dvc.lock -> their run, now deleted
    link: str = ""  # where the pipeline run of dvc.lock is


def sync(root: Path, project: str, lock: Path) -> Synced:
    """Bring the store up to date with the journals and with a dvc.lock.

    Args:
        root: folder of the store and the journals, from `store_root()`.
        project: runs go to the experiment `<project>/pipeline`.
        lock: dvc.lock, which may be absent; outs are looked for beside it.

    Raises:
        TrackingError: the store cannot be used; nothing is lost.
    """
    found, done = RunStore(root, make=True, project=project), Synced()
    experiment, client = found.experiment(experiment_name(project)), found.client
    known = {name for run in found.search(view=ALL) for name in run.tags.get("drtune.journal", "").split()}
    for path in journals_in(root):
        _ship_one(path, root, path.stem in known, done)
    done.ended += mlflow_pipeline.sweep(found, experiment)
    if studies := mlflow_pipeline.studies_beside(client, experiment):
        done.ended += found.end_dead_runs(studies)
    entries, runs = locked_entries(lock), {}
    for stage, entry in entries.items():
        key = stage_key(entry)
        runs[stage] = mlflow_pipeline.run_of_key(client, experiment, key)
        if runs[stage] is None and (gone := mlflow_pipeline.run_of_key(client, experiment, key, DELETED)):
            done.deleted[stage] = gone
        elif runs[stage] is None:
            runs[stage] = _adopt(root, project, lock, stage, entry)
            done.adopted.append(stage)
    if any(runs.values()):
        keys = {stage: stage_key(entry) for stage, entry in entries.items()}
        pipeline = _join_pipeline(client, root, experiment, lock, keys, runs)
        done.link = store.link(found.uri, root, experiment, pipeline)
    return done


def _ship_one(path: Path, root: Path, known: bool, done: Synced) -> None:
    """Ship one journal, unless its process lives; a fault of the journal is noted, the others go on."""
    descriptor = claim(path)
    if descriptor is None:
        done.busy.append(path)
        return
    try:
        if header_of(path) is None:
            done.torn[path] = _set_aside(path)
            return
        dead = end_dead(path)
        if dead or unsent(path) or not known:  # a store that was lost, or is another one, knows it not
            target = MlflowTarget(root)
            ship(path, target)
            done.shipped.append(path)
            done.ended += [target.run_id] if dead else []
    except TrackingError:
        raise
    except Exception as error:
        done.left[path] = f"{type(error).__name__}: {store.answer(error)}"
    finally:
        release(descriptor)


def _set_aside(path: Path) -> str:
    """Remove an empty journal, and move one whose first line is torn out of the way; says which."""
    content = path.read_bytes()
    if not content.strip():
        path.unlink()
        return "was empty, as a full disk or a kill leaves it, and is removed"
    kept = path.parent / TORN / path.name
    kept.parent.mkdir(exist_ok=True)
    for part in (path, path.with_suffix(".files")):
        if part.exists():
            part.rename(kept.with_suffix(part.suffix))
    lines = content.count(b"\n")
    return f"its first line is torn, so no run can be made of its {lines} whole lines; moved to {kept}"


def _adopt(root: Path, project: str, lock: Path, stage: str, entry: Mapping[str, Any]) -> str:
    """Make the run of a cached stage that was made elsewhere, from what dvc.lock and its outs say of it.

    It goes through a journal like any other run, so a kill in between does no harm. It is FINISHED, because
    DVC caches nothing else, and carries `drtune.adopted`: the times are those of the adoption.
    """
    key, outs = stage_key(entry), entry.get("outs", [])
    tags = {"drtune.kind": "stage", "drtune.stage": stage, "drtune.stage_key": key, "drtune.schema": "1"}
    tags |= {"drtune.adopted": "true", "dvc.outs": as_text({out["path"]: out.get("md5", "") for out in outs})}
    tags["git.commit"] = git(lock.parent, "log", "-1", "--format=%H", "--", lock.name).strip()
    tags = {name: text for name, text in tags.items() if text}
    first, target = header(experiment_name(project), stage, stage, tags), MlflowTarget(root)
    journal = open_journal(journal_folder(root), key, False, first)
    run = StageRun(journal, Shipper(journal.path, target), target.link)
    try:
        for params in entry.get("params", {}).values():
            run.log_params(params)
        for dep in entry.get("deps", []):
            if not is_code(dep["path"]):
                run.log_input(dep["path"], dep.get("md5", ""), stage)
        for step, values in _numbers_of(lock.parent, [out["path"] for out in outs]):
            run.log_metrics(values, step)
        journal.write("status", status="FINISHED")
        ship(journal.path, target)
        return target.run_id
    finally:
        journal.close()
        journal.release()


def _numbers_of(folder: Path, outs: list[str]) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, name -> value) from a history.json, counted by its epochs, and from files of metrics."""
    for path in (folder / out for out in outs):
        if (path / "history.json").is_file():
            records = read_json(path / "history.json")
            for values in map(_numbers, records if isinstance(records, list) else []):
                if 0 <= values.get("epoch", -1) <= MOST_EPOCHS:
                    yield int(values["epoch"]), values
        elif path.suffix == ".json" and path.is_file():
            yield 0, _numbers(read_json(path))


def _numbers(values: Any) -> dict[str, float]:
    """The numbers in a file of metrics that a store can hold; none where it is something else."""
    found = flat(values) if isinstance(values, Mapping) else {}
    known = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return {name: value for name, value in known.items() if not abs(value) > 1e308}


def _join_pipeline(
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
    tags = {"git.commit": commit, "git.branch": branch, "git.remote": remote_of(folder), "drtune.schema": "1"}
    there = {stage: run for stage, run in runs.items() if run}
    about = {
        "name": mlflow_pipeline.pipeline_name("", branch, commit),
        "tags": {name: text for name, text in tags.items() if text},
        "time": min(client.get_run(run).info.start_time for run in there.values()),
        "runs": there,
    }
    pipeline = mlflow_pipeline.join(client, root, experiment, keys, about)
    for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
        if (folder / name).is_file():
            client.log_artifact(pipeline, str(folder / name), "provenance")
    if commit and not git(folder, "status", "--porcelain", "--", lock.name).strip():
        client.set_tag(pipeline, "drtune.lock_commit", commit)
    return pipeline
