"""What a worker does: take the next trial, run it, say what became of it; until there is none."""

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import torch

from drtune.base.errors import DRTuneError, TrainingError
from drtune.base.files import read_json, write_json
from drtune.runs.lifecycle import clear
from drtune.studies.storage import patiently
from drtune.studies.study import Attempt, Pruned, Study
from drtune.training.selection import Record, kept_epoch
from drtune.training.settings import Monitor

Run = Callable[[Attempt], Sequence[float]]
KEY = "key.json"
"""In a trial's folder: the stage key that its checkpoints and its model belong to."""


def study_folder(root: Path, name: str) -> Path:
    """Running state, finished models, pictures and logs of a study on this machine."""
    return root / ".drtune" / "studies" / name


def trial_folder(root: Path, name: str, first: int) -> Path:
    """Those of a trial; `first` is the number of its first attempt. One training's are in `seed-SEED`."""
    return study_folder(root, name) / f"trial-{first:03d}"


def made_with(trial: Path, key: str) -> bool:
    """Whether what lies in a trial's folder was made with a stage key.

    A study that is gone, or one in another storage, may have had the same name.
    """
    return (trial / KEY).exists() and bool(read_json(trial / KEY) == key)


def take_over(trial: Path, key: str) -> None:
    """Remove what another stage key left in a trial's folder, which is held."""
    if not made_with(trial, key):
        clear(trial)
        write_json(trial / KEY, key)


def work_through(study: Study, root: Path, process: Mapping[str, str], until: float | None, run: Run) -> None:
    """Run trials until the study has all of them, or until a time in Unix seconds.

    `process` are tags that name this one, `proc.*`; `run` returns the values of the objectives.
    """
    while (attempt := study.next(process, until)) is not None:
        with attempt.alive():
            settle(attempt, run)
        patiently(tidy, study, root)


def settle(attempt: Attempt, run: Run) -> None:
    """Run one trial and store its end.

    One that is told to stop, or meets what the user can mend, is given again; so is, once, one that ends in
    an error of ours, which otherwise would end every worker that begins it.
    """
    try:
        attempt.complete(run(attempt))
    except Pruned:
        attempt.pruned()
    except TrainingError as fault:
        attempt.failed(str(fault))
    except torch.OutOfMemoryError as fault:
        attempt.failed(f"out of GPU memory: {str(fault).split('.')[0]}")
    except BaseException as end:
        mendable = isinstance(end, DRTuneError | OSError) or not isinstance(end, Exception)
        with contextlib.suppress(Exception):  # if the storage is away, the next sweep finds the process gone
            attempt.stopped(told=mendable)
        raise


def tidy(study: Study, root: Path) -> None:
    """Remove what ended trials left on this machine, but for the models of the best."""
    trials = study.standings()  # before the best, so that one which ends in between is not taken for beaten
    kept = {trial.first for trial in study.best()}
    for trial in trials:
        ended = trial.state in ("COMPLETE", "PRUNED") or trial.fault
        if ended and trial.first not in kept:
            shutil.rmtree(trial_folder(root, study.name, trial.first), ignore_errors=True)


class Score:
    """The value of a trial: of each of its trainings the metric at the epoch that is kept, their mean.

    Args:
        attempt: gets the value so far after every epoch.
        metric: `val_accuracy` or `val_loss`.
        monitor: `train.monitor`, which chooses the epoch.
    """

    def __init__(self, attempt: Attempt, metric: str, monitor: Monitor) -> None:
        self.attempt, self.metric, self.monitor = attempt, metric, monitor
        self.histories: list[list[Record]] = [[]]

    def epoch(self, record: Record) -> None:
        """Take a history record; Pruned where the trial is not worth going on."""
        *before, now = self.histories
        now.append(record)
        ended = sum(int(history[-1]["epoch"]) + 1 for history in before)
        self.attempt.report(self.value, ended + int(record["epoch"]))

    def end_training(self) -> None:
        """The next records belong to another training."""
        self.histories.append([])

    @property
    def value(self) -> float:
        """Mean over the trainings so far."""
        kept = [kept_epoch(history, self.monitor) for history in self.histories if history]
        return mean(float(record[self.metric]) for record in kept)


class Stopwatch:
    """Seconds of a trial's work over all its attempts; of one that was killed, those up to its last epoch.

    The file keeps them between two attempts.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.start = time.perf_counter() - (read_json(file) if file.exists() else 0.0)

    def read(self) -> float:
        """The seconds until now, which the file keeps."""
        seconds = time.perf_counter() - self.start
        write_json(self.file, seconds)
        return seconds
