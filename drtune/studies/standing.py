"""How a trial stands, and which attempts count; from what Optuna stores of it."""

import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from drtune.runs.lifecycle import pid_namespace, process_is_gone
from drtune.studies.sampling import given

PID, FIRST, CONTINUES, CRASHES = "proc.pid", "first", "continues", "crashes"
FAULT, STOPPED = "fault", "stopped"
"""Attributes of a trial."""
RETRIES = 1
"""How often a trial is given again whose process died; one told to stop, or that never began, always is."""


@dataclass(frozen=True)
class Standing:
    """One trial as people see it."""

    number: int  # of its latest attempt
    first: int  # of its first, which names its folder and its run
    state: str  # WAITING, RUNNING, COMPLETE, PRUNED or FAIL; one whose process is gone does not run
    values: tuple[float, ...]  # of the objectives; of a pruned trial the last value reported
    params: Mapping[str, Any]
    fault: str  # why it failed, where the training itself did
    where: str  # host and process of a running one
    ended: float  # Unix seconds; 0 for one that has not, or is to be given again


def standing_of(trial: FrozenTrial) -> Standing:
    """Plain values of a trial."""
    tags, state = trial.user_attrs, trial.state
    last = [trial.intermediate_values[max(trial.intermediate_values)]] if trial.intermediate_values else ()
    running = state == TrialState.RUNNING and not is_lost(trial)
    final = state.is_finished() and not deserves_another(trial)
    twice = "its process died, also when it was tried again"
    return Standing(
        number=trial.number,
        first=int(tags.get(FIRST, trial.number)),
        state="FAIL" if state == TrialState.RUNNING and not running else state.name,
        values=tuple(trial.values or last),
        params=given(trial),
        fault=str(tags.get(FAULT, twice if final and state == TrialState.FAIL else "")),
        where=f"{tags.get('proc.host', '')} pid {tags[PID]}" if running else "",
        ended=trial.datetime_complete.timestamp() if final and trial.datetime_complete else 0.0,
    )


def numbers_continued(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the attempts that others go on with."""
    return {number for trial in trials for number in trial.user_attrs.get(CONTINUES, [])}


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: of several attempts the last, and none that failed before it began."""
    gone = numbers_continued(trials)
    gone |= {
        trial.number for trial in trials if trial.state == TrialState.FAIL and PID not in trial.user_attrs
    }
    return [trial for trial in trials if trial.number not in gone]


def is_lost(trial: FrozenTrial, silent: bool = False) -> bool:
    """Whether a running trial has no process; to be silent says so only of one that cannot be seen from here.

    A machine that was asleep wakes with all its workers alive and none heard of.
    """
    tags = trial.user_attrs
    here = tags.get("proc.host") == socket.gethostname()
    seen = here and tags.get("proc.namespace", pid_namespace()) == pid_namespace()
    return PID not in tags or process_is_gone(tags) or (silent and not seen)


def deserves_another(trial: FrozenTrial) -> bool:
    """Whether a trial failed because of its process, not its training, and not too often."""
    if trial.state != TrialState.FAIL or FAULT in trial.user_attrs or not given(trial):
        return False
    return not crashed(trial) or trial.user_attrs.get(CRASHES, 0) < RETRIES


def crashed(trial: FrozenTrial) -> bool:
    """Whether a failed trial had begun, and nobody told its process to stop."""
    return PID in trial.user_attrs and STOPPED not in trial.user_attrs


def counts(trials: Sequence[Standing]) -> str:
    """'12 complete, 8 pruned'."""
    return ", ".join(f"{count} {word}" for word, count in Counter(map(word_of, trials)).items())


def word_of(trial: Standing) -> str:
    """How a trial stands; `stopped` is one whose process is gone and that will be given again."""
    return "stopped" if trial.state == "FAIL" and not trial.fault else trial.state.lower()
