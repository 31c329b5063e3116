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

from drtune.base.errors import TrackingError
from drtune.base.files import inside, refusal_of_disk
from drtune.runs import mlflow_pipeline, store
from drtune.runs.journal import Entry, Journal, Shipper, header, journal_folder, open_journal
from drtune.runs.lifecycle import Stopped
from drtune.runs.naming import experiment_name
from drtune.runs.record import RunRecord
from drtune.runs.run import StageRun, run_tags
from drtune.runs.run_store import RunStore
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
        stage: as DVC names it, `train` or `train@l2`; `suffix` is added to it as the run's name.
        record, identity: from `record.collect` and `current_stage_key`, which is None outside DVC.
        resume: continue the unfinished run of this key; hold `lifecycle.exclusive` for the key meanwhile.
        system_metrics: log the machine's load every 10 s.
        root: folder of the store and the journals; `store_root()` unless given.
        lock: dvc.lock beside dvc.yaml; its stages and this one make a pipeline run.
    """
    root, key = root or store_root(), identity.key if identity else ""
    tags, name = run_tags(stage, record, key), f"{stage} {suffix}".strip()
    pipeline = mlflow_pipeline.pipeline_of(lock, stage, identity, record)
    first = header(experiment_name(project), name, stage, tags, **pipeline)
    journal = open_journal(journal_folder(root), key, resume, first, not identity or identity.recorded)
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
    """The run of an open journal, shipped while the block works, closed with a true status, see `stage_run`.

    `tags` are set again where it is continued; exceptions in `given_up`, too, leave it KILLED.
    """
    target = MlflowTarget(root)
    run = StageRun(journal, Shipper(journal.path, target), target.link)
    status, seconds = "FAILED", CLOSE_SECONDS
    try:
        run.begin(tags)
        if identity:
            run.log_deps(identity.deps)
        with sampling(run.log_metrics, journal.last_step, system_metrics):
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
    """The run of one journal in the store of `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, store.store_uri(root)
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
        if self.run_id:
            store.check_reachable(self.uri)  # every time: one that hangs is given up after seconds
            return False
        found = RunStore(self.root, make=True)
        self._client, self._files = found.client, journal.with_suffix(".files")
        self.experiment_id = found.experiment(header.get("experiment") or experiment_name(header["project"]))
        known = self._find(header, journal.stem)
        self._in_doubt, run_id = known is not None, known
        if run_id is None:
            tags = {**header["tags"], "drtune.journal": journal.stem}
            made = self._client.create_run(self.experiment_id, header["time"], tags, header["name"])
            run_id = made.info.run_id
        mlflow_pipeline.sweep(found, self.experiment_id)
        if header.get("stages"):
            about = {"name": header["pipeline"], "tags": header["tags"], "time": header["time"]}
            about["runs"] = {header["stage"]: run_id}
            where = self._client, self.root, self.experiment_id
            self.pipeline_id = mlflow_pipeline.join(*where, header["stages"], about)
        self.run_id = str(run_id)
        return known is None

    def _find(self, header: Entry, journal: str) -> str | None:
        """The run made from this journal, or the unfinished one of this key that is to be continued."""
        ids = [self.experiment_id]
        runs = self._client.search_runs(ids, f"tags.`drtune.journal` LIKE '%{journal}%'", max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        if not (header["resume"] and header["stage_key"]):
            return None
        tag = header.get("known_by", "drtune.stage_key")
        same = f"tags.`{tag}` = '{header['stage_key']}' and attributes.status != 'FINISHED'"
        for run in self._client.search_runs(ids, same, order_by=["attributes.start_time DESC"]):
            here = run.data.tags.get("proc.host") == header["tags"].get("proc.host")
            if here or run.info.status != "RUNNING":  # one that runs on another host is not ours to continue
                journals = f"{run.data.tags.get('drtune.journal', '')} {journal}".strip()
                tags = {**header["tags"], "drtune.resumed": "1", "drtune.journal": journals}
                self._send_tags([{"values": tags}], run.info.run_id)
                self._client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
        return None

    def send(self, entries: list[Entry]) -> None:
        """Store lines in order, neighbours of one kind together."""
        try:
            for kind, group in itertools.groupby(entries, key=lambda entry: str(entry["kind"])):
                if sender := getattr(self, f"_send_{kind}", None):
                    sender(list(group))
        except Exception:
            self._in_doubt, self._held = True, {}  # the store may have taken them and lost the answer
            raise

    def _send_metrics(self, entries: list[Entry]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), entry["time"], entry["step"])
            for entry in entries
            for name, value in entry["values"].items()
            if not math.isinf(float(value)) and entry["step"] not in self._steps(name)
        ]
        self._batches(self.run_id, "metrics", metrics, METRICS_PER_CALL)

    def _steps(self, metric: str) -> set[int]:
        """Steps of a metric that the store held when this process began to be in doubt; else none.

        A line may have been sent before by a process that was killed, or whose answer was lost, or a run
        whose journal is gone is done again. Lines of one doubt are in order, so that reading once is enough.
        """
        if self._in_doubt and metric not in self._held:
            points = self._client.get_metric_history(self.run_id, metric)
            self._held[metric] = {point.step for point in points}
        return self._held.get(metric, set())

    def _send_params(self, entries: list[Entry]) -> None:
        from mlflow.entities import Param

        values = _merged(reversed(entries))  # the first value stands
        self._batches(self.run_id, "params", [Param(name, text) for name, text in values.items()])

    def _send_tags(self, entries: list[Entry], run_id: str = "") -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, text) for name, text in _merged(entries).items()]
        self._batches(run_id or self.run_id, "tags", tags)

    def _batches(self, run_id: str, kind: str, items: Sequence[Any], most: int = ITEMS_PER_CALL) -> None:
        log_batch = self._client.log_batch
        for part in (items[start : start + most] for start in range(0, len(items), most)):
            _attempt(part, lambda items: log_batch(run_id, **{kind: items}), lambda item: item.key)

    def _send_input(self, entries: list[Entry]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        facts, given = {"mlflow.data.context": "context", "dvc.md5": "md5", "dvc.path": "path"}, []
        for entry in entries:  # as MLflow's MetaDataset records them, without opening the data
            source = json.dumps({"uri": entry["path"]})
            dataset = Dataset(entry["name"], entry["md5"][:DIGEST], "local", source)
            given.append(DatasetInput(dataset, [InputTag(tag, entry[field]) for tag, field in facts.items()]))
        log_inputs = self._client.log_inputs
        _attempt(given, lambda items: log_inputs(self.run_id, items), lambda item: item.dataset.name)

    def _send_artifact(self, entries: list[Entry]) -> None:
        """Upload copies; one refused twice by a store that answers otherwise is passed over."""
        for entry in entries:
            path, refusal = inside(self._files, os.path.join(entry["folder"], entry["name"])), None
            for _ in range(2 if path.exists() else 0):
                try:
                    self._client.log_artifact(self.run_id, str(path), entry["folder"] or None)
                    refusal = None
                    break
                except TrackingError as error:
                    if refusal_of_disk(error):  # room may be made, and then it is sent
                        raise
                    self._client.get_run(self.run_id)  # raises while the store is away: all is sent later
                    refusal = error
            if refusal:
                log.warning("tracking store: refuses %s: %s", path, store.answer(refusal))

    def _send_status(self, entries: list[Entry]) -> None:
        last = entries[-1]
        if last["status"] == "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self._client.set_terminated(self.run_id, last["status"], last["time"])
        if self.pipeline_id:
            mlflow_pipeline.refresh(self._client, self.pipeline_id)


def _attempt(items: Sequence[Any], send: Callable[[Any], None], name: Callable[[Any], str]) -> None:
    """Send all at once; what the store refuses is sent alone, and passed over if refused again."""
    try:
        send(items)
    except TrackingError as error:
        if not store.is_refusal(error):
            raise
        if len(items) == 1:
            log.warning("tracking store: refuses %s: %s", name(items[0]), store.answer(error))
        for item in items if len(items) > 1 else ():
            _attempt([item], send, name)


def _merged(entries: Iterable[Entry]) -> dict[str, str]:
    """Values of several lines; of one name the last."""
    return {name: text for entry in entries for name, text in entry["values"].items()}
