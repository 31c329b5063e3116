"""Stage runs in MLflow.

`MlflowTarget` turns journal lines into calls of one `MlflowClient`, without MLflow's global state; it lives
in the shipper's thread. `stage_run` is what a stage script opens around its work.
"""

import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drtune.base.files import inside
from drtune.runs import mlflow_pipeline, store
from drtune.runs.journal import Entry, Journal, Shipper, journal_folder, open_journal
from drtune.runs.lifecycle import Stopped
from drtune.runs.mlflow_store import connect, experiment_of, is_refusal, refused
from drtune.runs.naming import chunks, experiment_name
from drtune.runs.record import RunRecord
from drtune.runs.run import StageRun, next_sample, run_tags
from drtune.runs.stage_key import StageIdentity, store_root
from drtune.runs.system_metrics import sampling

log = logging.getLogger(__name__)

METRICS_PER_CALL, ITEMS_PER_CALL, DIGEST = 1000, 100, 36
"""Limits of log_batch, and of a dataset digest in characters; mlflow 3.17 utils/validation.py."""
CLOSE_SECONDS, STOP_SECONDS = 20.0, 8.0
"""Longest waits: for the last lines at the end, and after SIGTERM (Docker kills after 10)."""


@contextmanager
def stage_run(
    project: str,
    stage: str,
    record: RunRecord,
    identity: StageIdentity | None,
    *,
    suffix: str = "",
    resume: bool = False,
    system_metrics: bool = False,
    root: Path | None = None,
    lock: Path | None = None,
) -> Iterator[StageRun]:
    """Open one MLflow run around a stage's work and close it with a true status.

    FINISHED: the block ends, or `sys.exit()` with 0. KILLED: `Stopped` or Ctrl-C. FAILED: any other exit or
    exception. All are raised again. A store that cannot be used is reported once; the journal keeps the run.

    Args:
        project: runs go to the experiment `<project>/pipeline`.
        stage: as DVC names it, `train` or `train@l2`.
        record: from `record.collect`.
        identity: from `current_stage_key`; None outside DVC.
        suffix: added to the run's name.
        resume: continue the unfinished run of this key; hold `lifecycle.exclusive` for the key meanwhile.
        system_metrics: log the machine's load every 10 s.
        root: folder of the store and the journals; `store_root()` unless given.
        lock: dvc.lock beside dvc.yaml; its stages and this one make a pipeline run.
    """
    root, key = root or store_root(), identity.key if identity else ""
    tags = run_tags(stage, record, key)
    header = {"project": project, "name": f"{stage} {suffix}".strip(), "stage": stage, "tags": tags}
    header |= mlflow_pipeline.pipeline_of(lock, stage, identity, record)
    journal = open_journal(journal_folder(root), key, resume, header, not identity or identity.recorded)
    with opened(journal, tags, identity, root, system_metrics) as run:
        yield run


@contextmanager
def opened(
    journal: Journal,
    tags: Mapping[str, str],
    identity: StageIdentity | None,
    root: Path,
    system_metrics: bool,
    given_up: tuple[type[BaseException], ...] = (),
) -> Iterator[StageRun]:
    """The run of an open journal, shipped while the block works and closed with a true status.

    Args:
        journal: new or continued.
        tags: set again where it is continued.
        identity, system_metrics: see `stage_run`.
        root: folder of the store.
        given_up: exceptions that leave the run KILLED, beside `Stopped` and Ctrl-C.
    """
    target = MlflowTarget(store.store_uri(root), root)
    run = StageRun(journal, Shipper(journal.path, target), target.link)
    status, seconds = "FAILED", CLOSE_SECONDS
    try:
        run.begin(tags)
        if identity:
            run.log_deps(identity.deps)
        with sampling(run.log_metrics, next_sample(journal.last_step), system_metrics):
            yield run
        status = "FINISHED"
    except (Stopped, KeyboardInterrupt):
        status, seconds = "KILLED", STOP_SECONDS
        raise
    except given_up:
        status = "KILLED"
        raise
    except SystemExit as end:
        status = "FAILED" if end.code else "FINISHED"
        raise
    finally:
        run.close(status, seconds)


class MlflowTarget:
    """The run of one journal in the store at `uri`; a local store keeps its files under `root`."""

    def __init__(self, uri: str, root: Path) -> None:
        store.set_defaults()
        self.uri, self.root = uri, root
        self.experiment_id = self.run_id = self.pipeline_id = ""
        self._client: Any = None
        self._files = root
        self._in_doubt = True
        self._held: dict[str, set[int]] = {}

    def link(self) -> str:
        """Where to look at the run; empty while it is not in the store."""
        return store.link(self.uri, self.root, self.experiment_id, self.run_id) if self.run_id else ""

    def open(self, header: Entry, journal: Path) -> bool:
        """Find or make the run of this journal, and its pipeline run; True if it was made."""
        store.check_reachable(self.uri)  # every time: one that hangs is given up after seconds
        if self.run_id:
            return False
        self._files = journal.with_suffix(".files")
        self._client = connect(self.uri, self.root)
        experiment = header.get("experiment") or experiment_name(header["project"])
        self.experiment_id = experiment_of(self._client, self.uri, self.root, experiment)
        found = self._find(header, journal.stem)
        tags = {**header["tags"], "drtune.journal": journal.stem}
        if found is None:
            run = self._client.create_run(self.experiment_id, header["time"], tags, header["name"])
        run_id = found or str(run.info.run_id)
        self._in_doubt = found is not None
        mlflow_pipeline.sweep(self._client, self.root, self.experiment_id)
        if header.get("stages"):
            about = {
                "name": header["pipeline"],
                "tags": header["tags"],
                "time": header["time"],
                "runs": {header["stage"]: run_id},
            }
            self.pipeline_id = mlflow_pipeline.join(
                self._client, self.root, self.experiment_id, header["stages"], about
            )
        self.run_id = run_id
        return found is None

    def _find(self, header: Entry, journal: str) -> str | None:
        """The run made from this journal, or the unfinished one of this key that is to be continued."""
        ids = [self.experiment_id]
        runs = self._client.search_runs(ids, f"tags.`drtune.journal` = '{journal}'", max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        if not (header["resume"] and header["stage_key"]):
            return None
        tag = header.get("known_by", "drtune.stage_key")
        same = f"tags.`{tag}` = '{header['stage_key']}' and attributes.status != 'FINISHED'"
        for run in self._client.search_runs(ids, same, order_by=["attributes.start_time DESC"]):
            here = run.data.tags.get("proc.host") == header["tags"].get("proc.host")
            if here or run.info.status != "RUNNING":  # one that runs on another host is not ours to continue
                tags = {**header["tags"], "drtune.resumed": "1", "drtune.journal": journal}
                self._send_tags(run.info.run_id, tags)
                self._client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
        return None

    def send(self, entries: list[Entry]) -> None:
        """Store lines in order, neighbours of one kind together."""
        senders: Mapping[str, Callable[[list[Entry]], None]] = {
            "metrics": self._metrics,
            "params": self._params,
            "tags": lambda lines: self._send_tags(self.run_id, merged(lines)),
            "input": self._inputs,
            "artifact": self._artifacts,
            "status": self._status,
        }
        try:
            for kind, group in itertools.groupby(entries, key=lambda entry: str(entry["kind"])):
                if kind in senders:
                    senders[kind](list(group))
        except Exception:
            self._in_doubt, self._held = True, {}  # the store may have taken them and lost the answer
            raise

    def _metrics(self, entries: list[Entry]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), entry["time"], entry["step"])
            for entry in entries
            for name, value in entry["values"].items()
            if not math.isinf(float(value)) and entry["step"] not in self._steps(name)
        ]
        for part in chunks(metrics, METRICS_PER_CALL):
            self._attempt("metrics", self._client.log_batch, self.run_id, metrics=part)

    def _steps(self, metric: str) -> set[int]:
        """Steps of a metric that the store held when this process began to be in doubt; else none.

        A line may have been sent before by a process that was killed, or whose answer was lost, or a run
        whose journal is gone is done again. Lines of one doubt are in order, so that reading once is enough.
        """
        if self._in_doubt and metric not in self._held:
            points = self._client.get_metric_history(self.run_id, metric)
            self._held[metric] = {point.step for point in points}
        return self._held.get(metric, set())

    def _params(self, entries: list[Entry]) -> None:
        from mlflow.entities import Param

        values = merged(reversed(entries))  # the first value stands
        self._one_by_one(self.run_id, "params", [Param(name, text) for name, text in values.items()])

    def _send_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._one_by_one(run_id, "tags", [RunTag(name, text) for name, text in tags.items()])

    def _inputs(self, entries: list[Entry]) -> None:
        """Data sets by path and digest, as MLflow's MetaDataset records them, without opening the data."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        for entry in entries:
            source = json.dumps({"uri": entry["path"]})
            dataset = Dataset(entry["name"], entry["md5"][:DIGEST], "local", source)
            facts = ("mlflow.data.context", "context"), ("dvc.md5", "md5"), ("dvc.path", "path")
            given = [DatasetInput(dataset, [InputTag(tag, entry[field]) for tag, field in facts])]
            self._attempt(entry["name"], self._client.log_inputs, self.run_id, given)

    def _artifacts(self, entries: list[Entry]) -> None:
        """Upload copies; one refused twice by a store that answers otherwise is passed over."""
        for entry in entries:
            path = inside(self._files, os.path.join(entry["folder"], entry["name"]))
            if not path.exists():
                continue  # shipped before and cleared away
            for _ in range(2):
                try:
                    self._client.log_artifact(self.run_id, str(path), entry["folder"] or None)
                    break
                except Exception as error:
                    self._client.get_run(self.run_id)  # raises while the store is away: all is sent later
                    refusal = error
            else:
                refused(str(path), refusal)

    def _status(self, entries: list[Entry]) -> None:
        last = entries[-1]
        if last["status"] == "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self._client.set_terminated(self.run_id, last["status"], last["time"])
        if self.pipeline_id:
            mlflow_pipeline.refresh(self._client, self.pipeline_id)

    def _one_by_one(self, run_id: str, kind: str, items: Sequence[Any]) -> None:
        """Send all at once; if the store refuses, send each alone, so that one bad item costs only itself."""
        for part in chunks(items, ITEMS_PER_CALL):
            try:
                self._client.log_batch(run_id, **{kind: part})
            except Exception as error:
                if not is_refusal(error):
                    raise
                for item in part:
                    self._attempt(item.key, self._client.log_batch, run_id, **{kind: [item]})

    def _attempt(self, what: str, call: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Send; pass over what the store will never take."""
        try:
            call(*args, **kwargs)
        except Exception as error:
            if not is_refusal(error):
                raise
            refused(what, error)


def merged(entries: Iterable[Entry]) -> dict[str, str]:
    """Values of several lines; of one name the last."""
    return {name: text for entry in entries for name, text in entry["values"].items()}
