"""Studies in MLflow: one run a study, below it one run a trial, in the experiment `<project>/studies`.

A trial's run goes through a journal like that of a stage. The study's run is written by whoever supervises
it, and only says again what Optuna's storage says: `tell` may be repeated, and mends what an earlier one
could not write.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drtune.runs import store
from drtune.runs.journal import header, journal_folder, open_journal
from drtune.runs.mlflow_pipeline import KIND, NOTE, PARENT, is_shared
from drtune.runs.mlflow_run import opened
from drtune.runs.naming import as_text, experiment_name, flat
from drtune.runs.record import RunRecord
from drtune.runs.run import StageRun, run_tags
from drtune.runs.run_store import RunStore
from drtune.runs.stage_key import StageIdentity

log = logging.getLogger(__name__)

STUDY, TOKEN, TRIAL = "drtune.study", "drtune.study_id", "drtune.trial_id"
STATE, REASON = "optuna.state", "optuna.reason"
"""Tags of a trial's run: `complete`, `pruned` or `fail`, absent while it is none; why it is not complete."""
BEST = "best"
MOST_TRIALS = 10_000


@dataclass(frozen=True)
class StudyName:
    """A study: its name, and a `token` that tells it from an earlier one of the same name."""

    project: str
    name: str
    token: str


@contextmanager
def trial_run(
    study: StudyName,
    number: int,
    parent: str,
    record: RunRecord,
    identity: StageIdentity,
    root: Path,
    given_up: type[BaseException],
) -> Iterator[StageRun]:
    """Open the run of a trial, or go on with it; see `mlflow_run.stage_run` for its statuses.

    The tag `optuna.state` tells a trial that was pruned from one that was stopped; both are KILLED.

    Args:
        number: of the trial's first attempt.
        parent: id of the study's run; empty while it has none.
        identity: of the training with the trial's settings.
        given_up: raised where the trial is pruned, which leaves its run KILLED.
    """
    trial = hashlib.sha256(f"{study.token}/{number}".encode()).hexdigest()
    tags = run_tags("train", record, identity.key)
    tags |= {KIND: "trial", STUDY: study.name, TOKEN: study.token, TRIAL: trial, "optuna.trial": str(number)}
    tags |= {PARENT: parent} if parent else {}
    first = header(
        experiment_name(study.project, "studies"), f"trial-{number:03d}", "train", tags, known_by=TRIAL
    )
    # never a new journal: a trial whose worker died after its end was not told is gone through again
    journal = open_journal(journal_folder(root), trial, True, first, recorded=False)
    with opened(journal, tags, identity, root, True, (given_up,)) as run:
        try:
            yield run
        except Exception as end:
            run.set_tags({STATE: "pruned" if isinstance(end, given_up) else "fail", REASON: str(end)})
            raise
        run.set_tags({STATE: "complete"} | ({REASON: ""} if journal.continued else {}))


class StudyRun:
    """The run of a study, maybe one that it remembers. A store that is away is said once; nothing raises."""

    def __init__(self, study: StudyName, root: Path, run_id: str = "") -> None:
        self.study, self.root, self.run_id = study, root, run_id
        self._client: Any = None
        self._experiment = ""
        self._away = False

    def begin(self, record: RunRecord, settings: Mapping[str, Any]) -> str:
        """Find or make the run and set it RUNNING; returns its id, empty while the store is away."""
        self._quietly(lambda: self._begin(record, settings))
        return self.run_id

    def tell(self, best: Sequence[float], tags: Mapping[str, str], note: str = "") -> None:
        """Bring the run up to date: best value after each finished trial, facts, Markdown for its page."""
        self._quietly(lambda: self._tell(best, {**tags, NOTE: note}))

    def attach(self, folder: Path) -> None:
        """Attach everything in a folder."""
        self._quietly(lambda: self._client.log_artifacts(self.run_id, str(folder)))

    def end(self, status: str) -> None:
        """Give it its status: FINISHED, KILLED or FAILED."""
        self._quietly(lambda: self._client.set_terminated(self.run_id, status))

    @property
    def link(self) -> str:
        """Where to look at it; empty while it is in no store."""
        known = self._experiment and self.run_id
        return (
            store.link(store.store_uri(self.root), self.root, self._experiment, self.run_id) if known else ""
        )

    def _begin(self, record: RunRecord, settings: Mapping[str, Any]) -> None:
        found = RunStore(self.root, make=True)
        self._client, self._experiment = (
            found.client,
            found.experiment(experiment_name(self.study.project, "studies")),
        )
        found.end_dead_runs(self._experiment)
        tags = record.tags()
        about = {name: text for name, text in tags.items() if is_shared(name) or name.startswith("proc.")}
        about |= {KIND: "study", STUDY: self.study.name, TOKEN: self.study.token}
        same = f"tags.`{TOKEN}` = '{self.study.token}' and tags.`{KIND}` = 'study'"
        runs = self._client.search_runs([self._experiment], same, max_results=1)
        self.run_id = str(runs[0].info.run_id) if runs else ""  # the remembered one may be in another store
        if self.run_id:
            self._set_tags(about)
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            made = self._client.create_run(self._experiment, tags=about, run_name=f"study:{self.study.name}")
            self.run_id = str(made.info.run_id)
        known = self._client.get_run(self.run_id).data.params
        for name, value in flat({"study": settings}).items():
            if name not in known:
                self._client.log_param(self.run_id, name, as_text(value))

    def _tell(self, best: Sequence[float], tags: Mapping[str, str]) -> None:
        held = {point.step for point in self._client.get_metric_history(self.run_id, BEST)}
        for step, value in enumerate(best, start=1):
            if step not in held:
                self._client.log_metric(self.run_id, BEST, value, step=step)
        self._set_tags({name: text for name, text in tags.items() if text})
        own = f"tags.`{TOKEN}` = '{self.study.token}' and tags.`{KIND}` = 'trial'"
        for run in self._client.search_runs([self._experiment], own, max_results=MOST_TRIALS):
            if run.data.tags.get(PARENT) != self.run_id:
                self._client.set_tag(run.info.run_id, PARENT, self.run_id)

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        known = self._client.get_run(self.run_id).data.tags
        for name, text in tags.items():
            if known.get(name) != text:
                self._client.set_tag(self.run_id, name, text)

    def _quietly(self, work: Callable[[], object]) -> None:
        """Do it, or say once that the store is away; the storage keeps all, and `tell` is done again."""
        if self._client is None and self._away:
            return
        for last in (False, True):  # the store refuses one of two machines that write the same tag at once
            try:
                store.check_reachable(store.store_uri(self.root))
                work()
                return
            except Exception as error:
                if last and not self._away:
                    remedy = "the study goes on, `drtune study resume` completes it"
                    log.warning("tracking store: %s; %s", store.answer(error), remedy)
                self._away = self._away or last
