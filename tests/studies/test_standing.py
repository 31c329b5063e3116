from datetime import datetime

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from drtune.studies.sampling import given
from drtune.studies.standing import (
    CONTINUES,
    CRASHES,
    FAULT,
    FIRST,
    PID,
    STOPPED,
    Standing,
    counted,
    deserves_another,
    numbers_continued,
    standing_of,
)

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING
POINT = {"train.lr_head": 0.5, "methods.dr_tune.bank_size": 64}
RANGES = {"train.lr_head": FloatDistribution(0.1, 1.0), "methods.dr_tune.bank_size": IntDistribution(32, 128)}
BEGUN = {PID: "42", "proc.host": "here"}


def trial(number, state, begun=True, point=POINT, fixed=None, values=None, seen=None, **attributes):
    """A trial as Optuna stores it."""
    made = create_trial(
        state=state,
        values=[0.5] if state == COMPLETE and values is None else values,
        params=dict(point),
        distributions={name: RANGES[name] for name in point},
        user_attrs={**(BEGUN if begun else {}), **attributes},
        system_attrs={"fixed_params": fixed} if fixed else {},
        intermediate_values=seen or {},
    )
    made.number = number
    return made


def dead(number, **attributes):
    return trial(number, FAIL, **attributes)


# --- which attempts count


def test_of_several_attempts_the_last_counts():
    trials = [
        trial(0, COMPLETE),
        dead(1),
        trial(2, PRUNED, values=[0.1]),
        dead(3, first=1, continues=[1], crashes=0),
        trial(4, COMPLETE, first=1, continues=[1, 3], crashes=1),
        trial(5, RUNNING),
        trial(6, WAITING, begun=False),
    ]
    assert numbers_continued(trials) == {1, 3}
    assert [one.number for one in counted(trials)] == [0, 2, 4, 5, 6]


def test_what_failed_before_it_began_does_not_count_but_a_fault_does():
    trials = [dead(0, begun=False), dead(1), dead(2, fault="loss is nan")]
    assert [one.number for one in counted(trials)] == [1, 2]


# --- which are given again


@pytest.mark.parametrize("state", [COMPLETE, PRUNED, RUNNING, WAITING])
def test_only_what_failed_is_given_again(state):
    assert not deserves_another(trial(0, state, values=[0.5] if state in (COMPLETE, PRUNED) else None))


def test_a_trial_whose_process_died_is_given_again_once():
    assert deserves_another(dead(0))
    assert deserves_another(dead(0, crashes=0))
    assert not deserves_another(dead(1, crashes=1))


def test_one_that_was_told_to_stop_is_given_again_always():
    assert deserves_another(dead(0, stopped=True))
    assert deserves_another(dead(7, stopped=True, crashes=1))


def test_one_whose_training_failed_is_not_given_again():
    assert not deserves_another(dead(0, fault="loss is nan"))
    assert not deserves_another(dead(0, fault="loss is nan", stopped=True))


def test_one_that_died_while_it_was_given_is_given_again_with_what_is_known_of_it():
    assert deserves_another(dead(0, begun=False))
    assert not deserves_another(dead(0, begun=False, point={}))
    half = dead(0, begun=False, point={"train.lr_head": 0.5}, fixed=POINT | {"train.lr_head": 0.4})
    assert deserves_another(half)
    assert given(half) == POINT, "what was drawn comes before what had been asked for"


def test_the_point_of_a_trial_that_waits_is_the_one_that_was_asked_for():
    assert given(trial(0, WAITING, begun=False, point={}, fixed=POINT)) == POINT
    assert given(trial(0, COMPLETE)) == POINT
    assert given(dead(0, point={})) == {}


def test_attributes_have_the_names_that_stored_studies_use():
    assert (PID, FIRST, CONTINUES, CRASHES) == ("proc.pid", "first", "continues", "crashes")
    assert (FAULT, STOPPED) == ("fault", "stopped")


# --- how they stand


def test_a_complete_trial():
    made = trial(3, COMPLETE, values=[0.75, 12.0], first=1, continues=[1])
    made.datetime_complete = datetime(2024, 5, 1, 12)
    assert standing_of(made) == Standing(
        number=3,
        first=1,
        state="COMPLETE",
        values=(0.75, 12.0),
        params=POINT,
        fault="",
        where="",
        ended=datetime(2024, 5, 1, 12).timestamp(),
    )


def test_a_running_trial_says_where_and_how_far():
    standing = standing_of(trial(2, RUNNING, seen={0: 0.1, 10: 0.4, 9: 0.3}))
    assert (standing.state, standing.where) == ("RUNNING", "here pid 42")
    assert (standing.values, standing.ended, standing.first) == ((0.4,), 0.0, 2)


def test_a_trial_that_waits():
    standing = standing_of(trial(0, WAITING, begun=False, point={}, fixed=POINT))
    assert (standing.state, standing.params, standing.values) == ("WAITING", POINT, ())
    assert (standing.where, standing.fault, standing.ended) == ("", "", 0.0)


def test_a_pruned_trial_has_its_last_value():
    assert standing_of(trial(0, PRUNED, values=[0.2], seen={5: 0.2})).values == (0.2,)
    assert standing_of(trial(0, PRUNED, seen={5: 0.2, 6: 0.3})).values == (0.3,)
    assert standing_of(trial(0, PRUNED, values=[0.2])).ended > 0


def test_a_failed_trial_says_why_and_has_not_ended_while_it_is_to_be_given_again():
    fault = standing_of(dead(0, fault="loss is nan"))
    assert (fault.state, fault.fault) == ("FAIL", "loss is nan")
    assert fault.ended > 0
    twice = standing_of(dead(4, first=1, continues=[1], crashes=1))
    assert (twice.first, twice.fault) == (1, "its process died, also when it was tried again")
    assert twice.ended > 0
    again = standing_of(dead(1))
    assert (again.fault, again.ended) == ("", 0.0)
    assert standing_of(dead(1, crashes=1, stopped=True)).ended == 0.0


def test_a_standing_holds_plain_values_of_its_own():
    made = trial(0, COMPLETE)
    standing = standing_of(made)
    made.params["train.lr_head"] = 0.9
    assert standing.params == POINT
