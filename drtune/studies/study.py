"""One Optuna study: which trials it has, which comes next, what became of each.

A trial's life: WAITING (given, or to be continued) -> RUNNING -> COMPLETE, PRUNED or FAIL. One whose process
is gone becomes FAIL and is given again once, under a new number; that attempt goes on from the checkpoint of
the first and counts with it as one. Every change of who runs what is made in turn (`storage.turn`).
"""

import math
import re
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from drtune.base.errors import StudyError
from drtune.runs.mlflow_study import StudyName
from drtune.runs.naming import PROJECT
from drtune.studies import standing
from drtune.studies.design import Design, require_same
from drtune.studies.sampling import build_pruner, given, next_point
from drtune.studies.standing import CONTINUES, CRASHES, FAULT, FIRST, PID, STOPPED, Standing
from drtune.studies.storage import HEARTBEAT_SECONDS, Storage, patiently, turn

DESIGN, TOKEN, TRIALS, RUN = "design", "token", "trials", "mlflow_run"
RUNNING, WAITING, FAIL = TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL
NAME = re.compile(r"(?!\.\.?$)[\w.+@=-]{1,100}")


class Pruned(Exception):  # noqa: N818
    """The trial is so far behind the others that it ends here."""


@contextmanager
def whole(name: str) -> Iterator[None]:
    """Say in a StudyError that what the storage holds of a study makes no sense."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as fault:
        what = f"the storage holds only parts of it ({type(fault).__name__}: {fault})".split("\n")[0]
        remedy = "put a copy of the storage back, or begin another study with --name"
        raise StudyError(f"study {name!r}: {what}; {remedy}") from None


class Attempt:
    """A trial that this process runs.

    Where another worker has it by now, because nothing was heard of this one, its end is not stored.
    """

    def __init__(self, study: "Study", trial: optuna.Trial) -> None:
        self.study, self.trial, self.number = study, trial, trial.number
        self.first = int(trial.user_attrs.get(FIRST, trial.number))
        self.params: dict[str, Any] = dict(trial.params)

    def report(self, value: float, step: int) -> None:
        """Say how the trial stands after a step; Pruned where it should end, or is another worker's."""
        if self.study.settings.cost:
            return
        try:
            patiently(self.trial.report, value, step)
        except UpdateFinishedTrialError:
            raise Pruned(f"trial {self.number}: taken for dead and given to another worker") from None
        if patiently(self.trial.should_prune):
            raise Pruned(f"trial {self.number}: pruned at step {step}")

    def complete(self, values: Sequence[float]) -> None:
        """It came to its end; a value that is no number cannot be compared, so that is a fault."""
        if all(map(math.isfinite, values)):
            self._tell(list(values))
        else:
            self.failed(f"its value is not finite: {', '.join(map(str, values))}")

    def pruned(self) -> None:
        """It was given up, with its last reported value."""
        self._tell(state=TrialState.PRUNED)

    def failed(self, fault: str) -> None:
        """Its training cannot be done: not given again."""
        with suppress(UpdateFinishedTrialError):
            patiently(self.trial.set_user_attr, FAULT, fault)
        self._tell(state=FAIL)

    def stopped(self, told: bool = True) -> None:
        """Its process ends: where it was told to, the next worker goes on with it, else once."""
        if told:
            self.trial.set_user_attr(STOPPED, True)
        self.study.inner.tell(self.trial, state=FAIL)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Tell other machines meanwhile that it is alive."""
        ended = Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                with suppress(Exception):  # while the storage is away; the next beat tries again
                    self.study.storage.record_heartbeat(self.trial._trial_id)

        thread = Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(1.0)

    def _tell(self, values: Sequence[float] | None = None, state: TrialState | None = None) -> None:
        """Store its end; it may be stored already, where the storage went away before it could say so."""
        with suppress(UpdateFinishedTrialError):
            patiently(self.study.inner.tell, self.trial, values, state, skip_if_finished=True)


class Study:
    """A study in its storage; a StudyError where there is none of this name, or it is broken."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        try:
            self.inner = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            known = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
            raise StudyError(f"study {name!r}: there is no such study; there are: {known}") from None
        with whole(name):
            if DESIGN not in (facts := self.inner.user_attrs) or not NAME.fullmatch(name):
                raise StudyError(f"study {name!r}: was not made by `drtune study run`; choose another --name")
            self.design = Design.from_facts(facts[DESIGN])
            self.settings, self.space = self.design.settings, self.design.space
            # its name in MLflow; the token tells it from an earlier study of the same name
            self.label = StudyName(PROJECT, name, str(facts[TOKEN]))
            self.best()

    @property
    def limit(self) -> int:
        """Trials in all; another command may change it meanwhile."""
        return int(self.inner.user_attrs.get(TRIALS, self.settings.trials))

    @property
    def run_id(self) -> str:
        """Its run in MLflow; empty while it has none."""
        return str(self.inner.user_attrs.get(RUN, ""))

    def set_run(self, run_id: str) -> None:
        """Remember its run in MLflow."""
        self.inner.set_user_attr(RUN, run_id)

    def trials(self) -> list[FrozenTrial]:
        """All attempts, in the order of their numbers."""
        return list(self.inner.get_trials(deepcopy=False))

    def next(self, process: Mapping[str, str], until: float | None = None) -> Attempt | None:
        """Begin the next trial, or None where all are begun, or after the time `until` (Unix seconds)."""
        while True:
            with suppress(UpdateFinishedTrialError):  # the server broke down in this turn, and gave it away
                return patiently(self._next, process, until)

    def _next(self, process: Mapping[str, str], until: float | None) -> Attempt | None:
        with turn(self.storage):
            self.sweep()
            trials = self.trials()
            waiting = any(trial.state == WAITING for trial in trials)
            late = until is not None and time.time() > until
            if late or (not waiting and len(standing.counted(trials)) >= self.limit):
                return None
            if not waiting:
                self.inner.enqueue_trial(next_point(self.inner, self.settings, self.space, self.limit))
            self.inner.pruner = build_pruner(self.settings)
            trial = self.inner.ask(dict(self.space))
            # each patiently: were all of this done again, this trial would be left over; the pid comes last,
            # because with it the trial has begun
            patiently(self.storage.record_heartbeat, trial._trial_id)
            for name in sorted(process, key=lambda name: name == PID):
                patiently(trial.set_user_attr, name, process[name])
            return Attempt(self, trial)

    def sweep(self) -> list[int]:
        """End the trials whose process is gone, and give again those that deserve it; hold the turn.

        Returns the numbers of those that are given again.
        """
        silent = set(self.storage._get_stale_trial_ids(self.inner._study_id))
        for trial in self.trials():
            if trial.state == RUNNING and standing.is_lost(trial, trial._trial_id in silent):
                with suppress(UpdateFinishedTrialError):  # it has just ended
                    self.storage.set_trial_state_values(trial._trial_id, FAIL)
        trials = self.trials()
        continued = standing.numbers_continued(trials)
        again = [t for t in trials if t.number not in continued and standing.deserves_another(t)]
        for trial in again:
            tags = trial.user_attrs
            about = {
                FIRST: tags.get(FIRST, trial.number),
                CONTINUES: [*tags.get(CONTINUES, []), trial.number],
            }
            about[CRASHES] = tags.get(CRASHES, 0) + standing.crashed(trial)
            self.inner.enqueue_trial(given(trial), about)
        return [trial.number for trial in again]

    def standings(self) -> list[Standing]:
        """Every trial once, as its latest attempt has it."""
        return [standing.standing_of(trial) for trial in standing.counted(self.trials())]

    def best(self) -> list[Standing]:
        """The best trial, or those that no other beats in both objectives; none before one is complete."""
        numbers = {trial.number for trial in self.inner.best_trials}
        found = [trial for trial in self.standings() if trial.number in numbers]
        return found if self.settings.cost else found[:1]

    def importances(self) -> dict[str, float]:
        """Share of each setting in how the first objective varies; empty where that cannot be said."""
        sign = -1 if self.settings.maximize[0] else 1  # Optuna asks what makes a target of ours small

        def first(trial: FrozenTrial) -> float:
            return sign * float(trial.values[0])

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="PedAnova.*low `target` values")
            warnings.filterwarnings("error", message=".*importances will be equal")  # too few trials
            try:
                return dict(optuna.importance.get_param_importances(self.inner, target=first))
            except (ValueError, RuntimeError, UserWarning):
                return {}


def begin(storage: Storage, name: str, design: Design, trials: int) -> Study:
    """Make a study, or go on with it; its first trial is params.yaml as it stands.

    A StudyError where there is one of this name about something else, or the name is none.
    """
    if not NAME.fullmatch(name):
        rule = "a name has 1 to 100 letters, digits or any of . _ - + @ = and no space"
        raise StudyError(f"study {name[:100]!r}: {rule}")
    return patiently(_begin, storage, name, design, trials)


def _begin(storage: Storage, name: str, design: Design, trials: int) -> Study:
    directions = [
        StudyDirection.MAXIMIZE if more else StudyDirection.MINIMIZE for more in design.settings.maximize
    ]
    with turn(storage):
        if name not in optuna.get_all_study_names(storage):
            optuna.create_study(storage=storage, study_name=name, directions=directions)
        inner = optuna.load_study(study_name=name, storage=storage)
        empty = not inner.get_trials(deepcopy=False)
        # just made, here or by one that was killed then
        if DESIGN not in inner.user_attrs and empty and inner.directions == directions:
            inner.set_user_attr(TOKEN, secrets.token_hex(8))
            inner.set_user_attr(DESIGN, design.facts())
        study = Study(storage, name)
        require_same(name, study.design, design)
        if inner.user_attrs.get(TRIALS) != trials:
            inner.set_user_attr(TRIALS, trials)
        if empty:
            inner.enqueue_trial(dict(design.own))
        study.sweep()
        return Study(storage, name)
