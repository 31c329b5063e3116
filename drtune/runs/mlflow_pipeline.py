"""Pipeline runs: the run over the stage runs that belong together, at most two levels deep.

Stages are processes of their own, and one that DVC restores from its cache starts none. So a pipeline run is
known by content: by the set of stage keys that a dvc.lock holds. Every stage that runs, and `drtune sync`,
joins the newest pipeline run that has no other key for any of its stages, or begins one. Resuming a killed
`dvc repro`, and coming back to earlier settings, therefore lead to the same pipeline run. A stage run has one
parent, the pipeline run that it was made in; the others point to it with tags and a link.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from drtune.base.errors import TrackingError
from drtune.runs.naming import experiment_name, legal_name
from drtune.runs.record import RunRecord
from drtune.runs.run_store import ACTIVE, NEWEST, RunStore
from drtune.runs.stage_key import StageIdentity, stages_at

KIND, PARENT, NOTE = "drtune.kind", "mlflow.parentRunId", "mlflow.note.content"
KEY, RUN = "drtune.key.", "drtune.run."
"""Tags of a pipeline run, followed by a stage's name: its key, and the run that made its outs."""
TEST = tuple(
    f"test.{name}" for name in ("accuracy", "accuracy_low", "accuracy_high", "mean_per_class", "nll", "ece")
)
TRAINED = "best_val_accuracy"
HEADLINES = (TRAINED, "best_epoch", *TEST)
"""Metrics copied where people filter: to the pipeline run, and those of the test split to the training."""
LOCK_SECONDS = 60.0
MOST_PIPELINES = 1000
SHARED = ("git.", "dvc.exp", "env.", "mlflow.user", "mlflow.source.git", "drtune.schema")


def join(
    client: Any, root: Path, experiment: str, stages: Mapping[str, str], about: Mapping[str, Any]
) -> str:
    """Find or make the pipeline run of these stages and bring it up to date; returns its run id.

    Args:
        client: of a `RunStore`.
        root: folder of the locks.
        experiment: id.
        stages: stage name -> key, in the order of dvc.lock.
        about: `name`, `tags`, `time` (ms) for a new one; `runs`, stage name -> run id, as far as known.
    """
    with FileLock(root / ".drtune" / "pipeline.lock", timeout=LOCK_SECONDS):
        found = find(client, experiment, stages)
        if found is None:
            tags = {name: text for name, text in about["tags"].items() if is_shared(name)}
            tags |= {KIND: "pipeline"} | {KEY + legal_name(stage): key for stage, key in stages.items()}
            made = client.create_run(experiment, about["time"], tags, about["name"])
            found = str(made.info.run_id)
        known = client.get_run(found).data.tags
        for stage, key in stages.items():
            name = legal_name(stage)
            held = known.get(RUN + name, "")
            run = about["runs"].get(stage) or (
                held if there(client, held) else run_of_key(client, experiment, key)
            )
            for tag, value in ((KEY + name, key), (RUN + name, run)):
                if value and known.get(tag) != value:
                    client.set_tag(found, tag, value)
        refresh(client, found)
        return found


def is_shared(tag: str) -> bool:
    """Whether a tag of a stage run says something about the whole pipeline."""
    return tag.startswith(SHARED)


def find(client: Any, experiment: str, stages: Mapping[str, str]) -> str | None:
    """The pipeline run with the most of these keys and no other key for any of these stages."""
    first, key = next(iter(stages.items()))
    same = f"tags.`{KIND}` = 'pipeline' and tags.`{KEY}{legal_name(first)}` = '{key}'"
    best, most = None, 0
    for run in client.search_runs([experiment], same, max_results=MOST_PIPELINES, order_by=NEWEST):
        held = [(run.data.tags.get(KEY + legal_name(stage)), key) for stage, key in stages.items()]
        equal = sum(have == want for have, want in held)
        if all(have in (None, want) for have, want in held) and equal > most:
            best, most = str(run.info.run_id), equal
    return best


def there(client: Any, run: str) -> Any:
    """A run by its id; None where it was deleted or purged."""
    try:
        found = client.get_run(run) if run else None
    except TrackingError as fault:
        if getattr(fault.__cause__, "error_code", "") in (
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
        ):
            return None
        raise
    return found if found and found.info.lifecycle_stage == "active" else None


def run_of_key(client: Any, experiment: str, key: str, view: int = ACTIVE) -> str | None:
    """The newest finished run with a key: of a stage, else of a trial, whose result `apply` gave to DVC.

    `view` chooses among the runs that are there, those that were deleted, or all.
    """
    wanted = f"tags.`drtune.stage_key` = '{key}' and attributes.status = 'FINISHED'"
    for place in (experiment, studies_beside(client, experiment)):
        runs = client.search_runs([place], wanted, view, max_results=1, order_by=NEWEST) if place else []
        if runs:
            return str(runs[0].info.run_id)
    return None


def studies_beside(client: Any, experiment: str) -> str:
    """Id of the experiment that holds the studies of the same project; empty where there is none."""
    project = client.get_experiment(experiment).name.rpartition("/")[0]
    found = client.get_experiment_by_name(experiment_name(project, "studies"))
    return str(found.experiment_id) if found and found.lifecycle_stage == "active" else ""


def refresh(client: Any, pipeline: str) -> None:
    """Make a pipeline run say what its stage runs say: status, headline metrics, links. Repeatable."""
    tags = client.get_run(pipeline).data.tags
    found = {tag.removeprefix(RUN): there(client, run) for tag, run in tags.items() if tag.startswith(RUN)}
    runs = {stage: run for stage, run in found.items() if run is not None}
    runs = dict(sorted(runs.items(), key=lambda item: item[1].info.start_time))
    for run in runs.values():
        if not run.data.tags.get(PARENT):
            client.set_tag(run.info.run_id, PARENT, pipeline)
            run.data.tags[PARENT] = pipeline
    note = _described(runs, pipeline)
    if tags.get(NOTE) != note:
        client.set_tag(pipeline, NOTE, note)
    _copy_headlines(client, pipeline, list(runs.values()))
    _set_status(client, pipeline, [run.info for run in runs.values()])


def sweep(store: RunStore, experiment: str) -> list[str]:
    """End the runs whose process is gone, and bring their pipeline runs up to date; returns their ids."""
    dead = store.end_dead_runs(experiment)
    with FileLock(store.root / ".drtune" / "pipeline.lock", timeout=LOCK_SECONDS):
        running = f"tags.`{KIND}` = 'pipeline' and attributes.status = 'RUNNING'"
        for run in store.client.search_runs([experiment], running, max_results=MOST_PIPELINES):
            refresh(store.client, str(run.info.run_id))
    return dead


def _described(runs: Mapping[str, Any], pipeline: str) -> str:
    """Markdown for the page of a pipeline run: its stages, with a link to the run of each."""
    lines = ["| stage | run | status | stage key |", "|---|---|---|---|"]
    for stage, run in runs.items():
        tags = run.data.tags
        page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        made = "" if tags.get(PARENT) == pipeline else ", from the cache"
        link = f"[{run.info.run_name}]({page}){made}"
        lines.append(f"| {stage} | {link} | {run.info.status} | `{tags.get('drtune.stage_key', '')[:12]}` |")
    return "\n".join(lines)


def _copy_headlines(client: Any, pipeline: str, runs: list[Any]) -> None:
    """Copy the headline metrics of finished stages to the pipeline run and to the training."""
    values: dict[str, tuple[float, int]] = {}
    for run in runs:
        if run.info.status == "FINISHED":
            ended = run.info.end_time or run.info.start_time
            values |= {n: (v, ended) for n, v in run.data.metrics.items() if n in HEADLINES}
    tested = {name: value for name, value in values.items() if name in TEST}
    trained = {run.info.run_id: tested for run in runs if TRAINED in run.data.metrics}
    for target, given in {pipeline: values, **trained}.items():
        held = client.get_run(target).data.metrics
        for name, (value, ended) in given.items():
            if held.get(name) != value:
                step = 1 + max((p.step for p in client.get_metric_history(target, name)), default=-1)
                client.log_metric(target, name, value, timestamp=ended, step=step)


def _set_status(client: Any, pipeline: str, infos: list[Any]) -> None:
    """RUNNING while a stage runs; else FAILED or KILLED where a stage is; else FINISHED."""
    statuses = [info.status for info in infos]
    status = next((s for s in ("RUNNING", "FAILED", "KILLED") if s in statuses), "FINISHED")
    if status != "RUNNING":
        ends = [info.end_time for info in infos if info.end_time]
        client.set_terminated(pipeline, status, max(ends, default=time.time_ns() // 1_000_000))
    elif client.get_run(pipeline).info.status != status:
        client.update_run(pipeline, status=status)


def pipeline_of(
    lock: Path | None, stage: str, identity: StageIdentity | None, record: RunRecord
) -> dict[str, Any]:
    """What a journal's header says of the pipeline run: `pipeline`, its name, and `stages`, name -> key."""
    stages = stages_at(lock, stage, identity) if lock and identity else {}
    named = record.facts["dvc.exp_name"], record.facts["git.branch"], record.commit
    return {"pipeline": pipeline_name(*named), "stages": stages}


def pipeline_name(experiment: str, branch: str, commit: str) -> str:
    """Name of a pipeline run: that of the DVC experiment, else `branch@commit`."""
    return experiment or (f"{branch or 'detached'}@{commit[:7]}" if commit else "pipeline")
