"""A study from its first check to its last picture: what `drtune study run` and `resume` do."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from textwrap import fill

from filelock import FileLock

from drtune.base.errors import ConfigError, StudyError
from drtune.base.faults import render
from drtune.base.settings import Params
from drtune.params import PARAMS, load, missing_paths
from drtune.runs.lifecycle import Stopped, stopping
from drtune.runs.mlflow_study import StudyRun
from drtune.runs.record import collect
from drtune.runs.stage_key import StageIdentity
from drtune.runs.store import scrub
from drtune.studies.design import SHORT, design_of, train_stage
from drtune.studies.report import as_text, write_report
from drtune.studies.space import read_study, too_many
from drtune.studies.standing import Standing, counts
from drtune.studies.storage import Storage, open_storage, patiently, storage_url, turn
from drtune.studies.study import Study, begin
from drtune.studies.supervisor import Crew, supervise
from drtune.studies.worker import study_folder, tidy
from drtune.training.settings import TrainSettings

log = logging.getLogger(__name__)

Say = Callable[[str], None]
BEFORE = "extract"
"""The stage that is brought up to date first, with all before it."""
PAGE_WIDTH = 150
"""Characters of a line on the study's page in MLflow, which a longer one pushes out of the window."""


@dataclass(frozen=True)
class Order:
    """What the command line says; no name means one after the method and what the study is about."""

    name: str = ""
    trials: int | None = None
    timeout: float | None = None
    workers: int = 1
    gpus: Sequence[str] = ()
    storage: str = ""


def run_study(root: Path, order: Order, say: Say) -> Study:
    """Begin a study or go on with it, until it has its trials.

    A ConfigError or a StudyError tells of faults of settings and storage before the stages, of a name that
    another study has before the trials, and of a fault that a worker met.
    """
    if order.name != Path(order.name).name or order.name == "..":
        raise StudyError(f"--name {order.name!r}: it names a folder too; give one without / in it")
    params = load(PARAMS)
    _, space = read_study(params)
    if faults := missing_paths(params):
        raise ConfigError(render(params.source, faults))
    if problem := too_many(space, order.trials or 0):
        raise StudyError(f"--trials {problem}")
    url = storage_url(root, order.storage)
    study = opened(params, open_storage(url), order, say)
    until = None if order.timeout is None else time.time() + order.timeout
    left = trials_left(study)
    workers = min(order.workers, left)
    crew = Crew(study.name, url, workers, order.gpus, until, study_folder(root, study.name))
    run = StudyRun(study.label, root, study.run_id)
    if run.begin(collect(Path.cwd()), study.settings.model_dump()):
        study.set_run(run.run_id)
    watch, status = Watch(study, run, say), "FAILED"
    say(f"study {study.name}: {study.limit} trials, {left} to do, {workers} workers")
    say(run.link or "not in a tracking store; the storage keeps all")
    try:
        with stopping():
            supervise(crew, lambda: patiently(watch.look))
        status = "FINISHED"
    except (Stopped, KeyboardInterrupt):
        status = "KILLED"
        say(f"stopped; `drtune study resume {study.name}` goes on")
        raise
    finally:
        finish(study, run, root, status)
    tidy(study, root)
    return study


def opened(params: Params, storage: Storage, order: Order, say: Say) -> Study:
    """The study of these settings, after the stages before training were brought up to date."""
    say(f"stages before training: dvc repro {BEFORE}")
    design = design_of(params, brought_up_to_date(Path.cwd()).entry)
    name = order.name or f"{params[TrainSettings].method}-{design.fingerprint()[:SHORT]}"
    return begin(storage, name, design, order.trials or design.settings.trials)


def brought_up_to_date(project: Path) -> StageIdentity:
    """Run the stages before training and return the train stage as it stands then.

    Commands that begin in one folder at once, as the containers of `--scale worker=4` do, take turns: DVC
    itself refuses all but the first. A StudyError where a stage failed; it and DVC have said why.
    """
    lock = project / ".drtune" / "stages.lock"
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock):
        done = subprocess.run([sys.executable, "-m", "dvc", "repro", BEFORE], cwd=project, check=False)
        if done.returncode:
            raise StudyError("the stages before training failed, see above; mend that and run again")
        return train_stage()


def trials_left(study: Study) -> int:
    """Trials that have not ended, those included that somebody runs: he may yet be stopped."""
    trials = study.standings()
    return max(study.limit, len(trials)) - sum(bool(trial.ended) for trial in trials)


class Watch:
    """Says what became of each trial, once, and brings the study's run up to date."""

    def __init__(self, study: Study, run: StudyRun, say: Say) -> None:
        self.study, self.run, self.say = study, run, say
        self.told = {trial.number for trial in study.standings() if trial.ended}

    def look(self) -> None:
        """Look for trials that have ended."""
        trials, best = patiently(self.study.standings), patiently(self.study.best)
        fresh = [trial for trial in trials if trial.ended and trial.number not in self.told]
        for trial in sorted(fresh, key=lambda trial: trial.ended):
            self.told.add(trial.number)
            values = ", ".join(f"{value:.4f}" for value in trial.values) or "no value"
            words = {"COMPLETE": values, "PRUNED": f"pruned at {values}"}
            what = words.get(trial.state, trial.fault or "stopped")
            mark = "  best" if trial.number in {one.number for one in best} else ""
            self.say(f"{len(self.told):>3} of {self.study.limit}  trial {trial.first}: {what}{mark}")
        if fresh:
            tell(self.study, self.run, trials)


def tell(study: Study, run: StudyRun, trials: Sequence[Standing], note: str = "") -> None:
    """Bring the study's run up to date: the best value after each complete trial, as they ended, and tags."""
    complete = sorted((t for t in trials if t.state == "COMPLETE"), key=lambda trial: trial.ended)
    better = max if study.settings.maximize[0] else min
    best = study.best()
    tags = {
        "optuna.study": study.name,
        "optuna.trials": f"{study.limit}: {counts(trials)}",
        "optuna.best_trials": ", ".join(str(trial.first) for trial in best),
        "optuna.best_params": str(dict(best[0].params)) if best else "",
    }
    run.tell(list(accumulate((trial.values[0] for trial in complete), better)), tags, note)


def finish(study: Study, run: StudyRun, root: Path, status: str) -> None:
    """Draw the pictures, write the summary, and give the study's run its last state."""
    folder, elsewhere = study_folder(root, study.name) / "report", False
    try:
        with turn(study.storage):
            study.sweep()  # a worker that was killed may have left a trial that runs no longer
        trials = study.standings()
        elsewhere = any(trial.state == "RUNNING" for trial in trials)
        write_report(study, folder)
        words = "\n".join(fill(line, PAGE_WIDTH) for line in as_text(study).split("\n"))
        tell(study, run, trials, f"```\n{words}\n```")
        run.attach(folder)
    except Exception as error:  # the storage may be gone; what ends the study must not be hidden by this
        log.warning("no report of the study: %s; `drtune study resume` makes it", scrub(str(error)))
    if status != "FINISHED" or not elsewhere:  # else the machine that runs the last trial ends it
        run.end(status)
