import os
import socket
import time

import optuna
import psutil
import pytest
import sqlalchemy
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from drtune.base.errors import StudyError
from drtune.runs.lifecycle import boot_id, pid_namespace
from drtune.studies import storage, study
from drtune.studies.standing import CONTINUES, CRASHES, FAULT, PID, counted
from drtune.studies.study import Pruned, Study

HERE = {
    "proc.pid": str(os.getpid()),
    "proc.host": socket.gethostname(),
    "proc.boot": boot_id(),
    "proc.namespace": pid_namespace(),
    "proc.start": f"{psutil.Process().create_time():.2f}",
}
DEAD = HERE | {"proc.start": "1.00"}
ELSEWHERE = HERE | {"proc.host": "elsewhere"}


def states(made):
    return [(trial.number, trial.first, trial.state, trial.fault) for trial in made.standings()]


def finish(made, value=None, process=HERE):
    """Run the next trial to its end; its value is `a` unless one is given."""
    attempt = made.next(process)
    attempt.complete([attempt.params["a"] if value is None else value])
    return attempt


def never_heard_of(made):
    """Make every heartbeat old."""
    with made.storage.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00.000000'")
        )


# --- begin


def test_the_first_trial_is_params_yaml_as_it_stands_and_the_last_is_the_limit(make_study):
    made = make_study(trials=3)
    points = []
    while (attempt := made.next(HERE)) is not None:
        attempt.complete([1.0])
        points.append((attempt.number, attempt.first, attempt.params))
    assert points[0] == (0, 0, {"a": 2, "b": 3})
    assert [number for number, *_ in points] == [0, 1, 2]
    assert len({tuple(params.values()) for *_, params in points}) == 3


def test_the_same_study_is_gone_on_with_and_another_is_refused(make_study):
    made = make_study(trials=3)
    finish(made)
    made.set_run("abc")
    again = make_study(trials=5)
    assert (again.label, again.run_id, again.limit) == (made.label, "abc", 5)
    assert len(again.trials()) == 1
    with pytest.raises(StudyError) as caught:
        make_study(trials=9, metric="val_loss", direction="minimize")
    assert str(caught.value) == (
        "study 's' is about something else; another --name begins another study; to go on with this one, "
        'undo the changes:\n  settings.direction: "maximize" then, "minimize" now\n'
        '  settings.metric: "val_accuracy" then, "val_loss" now'
    )
    assert make_study(trials=5).limit == 5


def test_a_study_that_begins_anew_under_an_old_name_has_another_token(make_study):
    first = make_study()
    token = first.label.token
    optuna.delete_study(study_name="s", storage=first.storage)
    assert make_study().label.token not in ("", token)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_beginning_that_was_killed_is_completed_unless_it_is_somebody_elses(make_study, direction):
    store = make_study("other").storage
    optuna.create_study(storage=store, study_name="s", direction=direction)
    if direction == "minimize":
        with pytest.raises(StudyError, match="was not made by `drtune study run`; choose another --name"):
            make_study()
    else:
        assert finish(make_study()).params == {"a": 2, "b": 3}


def test_a_study_with_trials_of_somebody_else_is_refused(make_study):
    store = make_study("other").storage
    optuna.create_study(storage=store, study_name="s", direction="maximize").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    with pytest.raises(StudyError, match=r"^study 's': was not made by `drtune study run`"):
        make_study()


def test_a_study_that_is_not_there_is_told_with_those_that_are(make_study):
    store = make_study("one").storage
    make_study("another")
    with pytest.raises(StudyError, match=r"^study 'two': there is no such study; there are: another, one$"):
        Study(store, "two")


# --- whose process is gone


def test_a_killed_trial_is_continued_once_under_a_new_number(make_study):
    made = make_study(trials=3)
    point = made.next(DEAD).params
    assert states(made) == [(0, 0, "FAIL", "")], "what has no process does not run"
    attempt = made.next(HERE)
    assert (attempt.number, attempt.first, attempt.params) == (1, 0, point)
    attempt.complete([1.0])
    assert finish(made).number == 2
    assert finish(made).number == 3
    assert made.next(HERE) is None
    assert [trial.state.name for trial in made.trials()] == ["FAIL"] + ["COMPLETE"] * 3
    assert states(made) == [(n, first, "COMPLETE", "") for n, first in ((1, 0), (2, 2), (3, 3))]


def test_a_trial_that_is_killed_twice_has_failed_and_counts(make_study):
    made = make_study(trials=2)
    assert [made.next(DEAD).first for _ in range(3)] == [0, 0, 2]
    fault = "its process died, also when it was tried again"
    assert states(made) == [(1, 0, "FAIL", fault), (2, 2, "FAIL", "")]
    assert made.next(HERE).first == 2
    assert made.next(HERE) is None
    assert len(counted(made.trials())) == 2


def test_a_trial_that_is_told_to_stop_is_given_again_always(make_study):
    made = make_study(trials=1)
    for number in range(4):
        attempt = made.next(HERE)
        assert (attempt.number, attempt.first) == (number, 0)
        attempt.stopped()
        assert states(made) == [(number, 0, "FAIL", "")]
    assert made.next(DEAD).number == 4
    attempt = made.next(HERE)
    assert (attempt.number, attempt.trial.user_attrs[CRASHES]) == (5, 1)
    assert attempt.trial.user_attrs[CONTINUES] == [0, 1, 2, 3, 4]
    attempt.complete([1.0])
    assert (states(made), made.next(HERE)) == ([(5, 0, "COMPLETE", "")], None)


def test_a_fault_of_the_training_is_not_tried_again_and_counts(make_study):
    made = make_study(trials=2)
    made.next(HERE).failed("the loss is no longer finite")
    assert finish(made).first == 1
    assert made.next(HERE) is None
    assert states(made)[0] == (0, 0, "FAIL", "the loss is no longer finite")


def test_a_process_killed_while_it_says_the_fault_has_said_it(make_study):
    made = make_study(trials=1)
    made.next(DEAD).trial.set_user_attr(FAULT, "mine")
    assert made.next(HERE) is None
    assert states(made) == [(0, 0, "FAIL", "mine")]


def test_a_value_that_is_no_number_is_a_fault(make_study):
    made = make_study(trials=1)
    attempt = made.next(HERE)
    attempt.report(float("nan"), 0)
    attempt.complete([float("nan")])
    assert states(made) == [(0, 0, "FAIL", "its value is not finite: nan")]
    assert made.next(HERE) is None


@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_trial_whose_process_died_while_it_was_given_keeps_its_point_and_its_retry(make_study, known):
    made = make_study(trials=2)
    trial = made.inner.ask()  # the first, with a point that was given
    for name in "ab"[:known]:
        trial.suggest_int(name, 1, 8)
    for name in HERE:
        if name != PID:
            trial.set_user_attr(name, DEAD[name])
    for number, process in ((1, DEAD), (2, HERE)):
        attempt = made.next(process)
        assert (attempt.number, attempt.first, attempt.params) == (number, 0, {"a": 2, "b": 3})
    attempt.complete([1.0])
    assert finish(made).first == 3
    assert made.next(HERE) is None


def test_a_trial_has_begun_when_all_is_known_of_its_process(make_study, monkeypatch):
    made, steps = make_study(), []
    monkeypatch.setattr(made.storage, "record_heartbeat", lambda trial_id: steps.append("heartbeat"))
    monkeypatch.setattr(made.storage, "set_trial_user_attr", lambda trial_id, key, value: steps.append(key))
    made.next(HERE)
    assert (steps[0], set(steps[1:]), steps[-1]) == ("heartbeat", set(HERE), PID)


def test_a_study_that_begins_again_gives_the_lost_trials_again(make_study):
    made = make_study(trials=3)
    finish(made)
    made.next(DEAD)
    again = make_study(trials=3)
    assert states(again) == [(0, 0, "COMPLETE", ""), (2, 1, "WAITING", "")]
    assert [finish(again).first for _ in range(2)] == [1, 3]
    assert again.next(HERE) is None


def test_after_the_time_nothing_is_begun_but_what_is_lost_waits(make_study):
    made = make_study(trials=2)
    made.next(DEAD)
    assert made.next(HERE, until=time.time() - 1) is None
    assert states(made) == [(1, 0, "WAITING", "")]
    assert made.next(HERE, until=time.time() + 60).first == 0


# --- heartbeats


@pytest.mark.parametrize("kind", ["sqlite_url", "postgres"])
def test_a_trial_of_another_machine_is_lost_when_nothing_is_heard_of_it(
    kind, make_study, request, monkeypatch
):
    found = request.getfixturevalue(kind)
    url = found if kind == "sqlite_url" else found.new()
    monkeypatch.setenv("PGTZ", "Pacific/Honolulu")  # where it is a day earlier than where the other looks
    make_study(trials=2, url=url).next(ELSEWHERE)
    monkeypatch.setenv("PGTZ", "Pacific/Auckland")
    made = make_study(trials=2, url=url)
    assert made.sweep() == []
    never_heard_of(made)
    assert made.sweep() == [0]
    assert states(made) == [(1, 0, "WAITING", "")]
    assert made.sweep() == []


@pytest.mark.parametrize("process", [HERE, HERE | {"proc.namespace": "pid:[1]"}])
def test_one_of_this_machine_that_lives_is_not_lost_after_a_long_sleep(make_study, process):
    made = make_study(trials=2)
    made.next(process)
    never_heard_of(made)
    assert made.sweep() == ([] if process is HERE else [0])


def test_a_trial_is_heard_of_while_it_is_alive(make_study, monkeypatch, wait_for):
    monkeypatch.setattr(study, "HEARTBEAT_SECONDS", 0.01)
    made = make_study(trials=2)
    attempt = made.next(ELSEWHERE)
    never_heard_of(made)
    beat, faults = made.storage.record_heartbeat, [OperationalError("", {}, Exception("away"))]

    def away_at_first(trial_id):
        if faults:
            raise faults.pop()
        beat(trial_id)

    monkeypatch.setattr(made.storage, "record_heartbeat", away_at_first)
    with attempt.alive():
        wait_for(lambda: not made.storage._get_stale_trial_ids(made.inner._study_id))
    assert not faults
    assert made.sweep() == []


def test_a_waiting_worker_is_not_taken_for_dead():
    assert storage.GRACE_SECONDS > storage.PATIENCE_SECONDS + 2 * storage.HEARTBEAT_SECONDS


def test_what_a_worker_says_of_a_trial_that_another_has_by_now_is_not_stored(make_study):
    made = make_study(trials=4)
    slept = [made.next(ELSEWHERE) for _ in range(4)]
    never_heard_of(made)
    taken = [made.next(HERE) for _ in range(4)]
    assert [attempt.first for attempt in taken] == [0, 1, 2, 3]
    with pytest.raises(Pruned, match="trial 0: taken for dead and given to another worker"):
        slept[0].report(0.5, 0)
    slept[0].pruned()
    slept[1].complete([9.0])
    slept[2].failed("mine")
    for attempt in taken:
        attempt.complete([1.0])
    assert states(made) == [(first + 4, first, "COMPLETE", "") for first in range(4)]
    assert {trial.values for trial in made.standings()} == {(1.0,)}
    assert made.next(HERE) is None


# --- a storage that goes away before it can say that it has stored


@pytest.fixture
def answer_lost(monkeypatch):
    """A method does its work, and then the storage is away, for one call in two."""
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)

    def lose(owner, name):
        work, calls = getattr(owner, name), []

        def method(*args, **kwargs):
            done = work(*args, **kwargs)
            calls.append(name)
            if len(calls) % 2:
                raise OperationalError("", {}, Exception("the connection is lost"))
            return done

        monkeypatch.setattr(owner, name, method)
        return calls

    return lose


def test_a_trial_begins_once_though_the_answer_was_lost(make_study, answer_lost):
    made = make_study(trials=2)
    beats = answer_lost(made.storage, "record_heartbeat")
    attributes = answer_lost(made.storage, "set_trial_user_attr")
    assert finish(made).number == 0
    assert (len(beats), len(attributes)) == (2, 2 * len(HERE))
    assert len(made.trials()) == 1


def test_a_trial_of_which_nobody_knows_is_given_again(make_study, answer_lost):
    made = make_study(trials=2)
    asked = answer_lost(made.inner, "ask")
    assert [(attempt.number, attempt.first) for attempt in (finish(made), finish(made))] == [(1, 0), (3, 2)]
    assert len(asked) == 4
    assert made.next(HERE) is None
    assert [state for _, _, state, _ in states(made)] == ["COMPLETE", "COMPLETE"]


def test_the_end_of_a_trial_is_stored_once_though_the_answer_was_lost(make_study, answer_lost):
    made = make_study(trials=3)
    attempts = [made.next(HERE) for _ in range(3)]
    told = answer_lost(optuna.Study, "tell")
    reports = answer_lost(made.storage, "set_trial_intermediate_value")
    attempts[0].report(0.25, 0)
    attempts[0].pruned()
    attempts[1].complete([1.0])
    attempts[2].failed("mine")
    assert (len(told), len(reports)) == (6, 2)
    assert [(trial.state, trial.values, trial.fault) for trial in made.standings()] == [
        ("PRUNED", (0.25,), ""),
        ("COMPLETE", (1.0,), ""),
        ("FAIL", (), "mine"),
    ]


def test_a_turn_that_the_server_lost_is_taken_again(make_study, monkeypatch):
    made = make_study(trials=1)
    beat, lost = made.storage.record_heartbeat, []

    def swept_meanwhile(trial_id):
        if not lost:
            lost.append(trial_id)
            made.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        beat(trial_id)

    monkeypatch.setattr(made.storage, "record_heartbeat", swept_meanwhile)
    attempt = finish(made)
    assert (attempt.number, attempt.first, made.next(HERE)) == (1, 0, None)


def test_a_beginning_is_tried_again(make_study, answer_lost):
    answer_lost(optuna.Study, "set_user_attr")
    answer_lost(optuna.Study, "enqueue_trial")
    made = make_study(trials=3)
    assert (made.limit, states(made)) == (3, [(0, 0, "WAITING", "")])
    assert made.label.token


# --- pruning, the best, two objectives


def test_a_trial_behind_the_median_is_pruned_after_the_warm_up(make_study):
    made = make_study(trials=4, pruner="median", startup_trials=2, warmup_epochs=2)
    for _ in range(2):
        attempt = made.next(HERE)
        for step in range(4):
            attempt.report(0.9, step)
        attempt.complete([0.9])
    attempt = made.next(HERE)
    attempt.report(0.1, 0)
    attempt.report(0.1, 1)
    with pytest.raises(Pruned, match="^trial 2: pruned at step 2$"):
        attempt.report(0.2, 2)
    attempt.pruned()
    assert made.standings()[2].state == "PRUNED"
    assert made.standings()[2].values == (0.2,)


def test_nothing_is_pruned_before_enough_trials_are_complete(make_study):
    made = make_study(trials=4, pruner="median", startup_trials=2, warmup_epochs=0)
    for value in (0.9, 0.1):
        attempt = made.next(HERE)
        for step in range(3):
            attempt.report(value, step)
        attempt.complete([value])


@pytest.mark.parametrize(
    ("metric", "direction", "best"), [("val_accuracy", "maximize", 1), ("val_loss", "minimize", 2)]
)
def test_the_best_is_one_complete_trial(make_study, metric, direction, best):
    made = make_study(trials=6, metric=metric, direction=direction)
    assert made.best() == []
    for value in (0.5, 0.9, 0.1, 0.9, 0.1):
        finish(made, value)
    attempt = made.next(HERE)
    attempt.report(7.0 if direction == "maximize" else -7.0, 0)
    attempt.pruned()
    assert [(trial.first, trial.values) for trial in made.best()] == [(best, (0.9 if best == 1 else 0.1,))]
    assert made.settings.maximize == (direction == "maximize",)


def test_the_best_of_a_continued_trial_bears_its_first_number(make_study):
    made = make_study(trials=2)
    made.next(DEAD)
    finish(made, 3.0)
    finish(made, 1.0)
    assert [(trial.number, trial.first) for trial in made.best()] == [(1, 0)]


def test_two_objectives_have_a_front_and_nothing_is_pruned(make_study):
    made = make_study(trials=4, cost="seconds")
    for values in ([0.9, 20.0], [0.5, 5.0], [0.4, 9.0], [0.95, 50.0]):
        attempt = made.next(HERE)
        attempt.report(values[0], 0)
        attempt.complete(values)
    assert [(trial.first, trial.values) for trial in made.best()] == [
        (0, (0.9, 20.0)),
        (1, (0.5, 5.0)),
        (3, (0.95, 50.0)),
    ]
    assert made.settings.maximize == (True, False)
    assert all(not trial.intermediate_values for trial in made.trials())


@pytest.mark.parametrize("cost", [None, "seconds"])
def test_importances_are_about_the_good_trials(make_study, cost):
    """Among the best all have the same `b`, among the worst all have the same `a`."""
    made = make_study(trials=40, cost=cost)
    assert made.importances() == {}
    for number in range(24):
        good = number < 8
        params = {"a": 1 + number % 8 if good or number >= 16 else 4, "b": 4 if good else 1 + number % 8}
        value = 0.9 if good else 0.5 if number >= 16 else 0.1
        distributions = {name: optuna.distributions.IntDistribution(1, 8) for name in "ab"}
        values = [value, 1.0] if cost else [value]
        made.inner.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, values=values)
        )
        if not number:
            assert made.importances() == {}
    shares = made.importances()
    assert shares["b"] > 2 * shares["a"] > 0
    assert sum(shares.values()) == pytest.approx(1.0)


# --- what people read


def test_a_standing_says_where_a_trial_runs_and_when_it_ended(make_study):
    made = make_study(trials=2)
    before = time.time()
    attempt = finish(made, 0.5)
    made.next(HERE)
    ended, running = made.standings()
    assert before - 1 < ended.ended < time.time() + 1
    assert (ended.where, ended.values, ended.params) == ("", (0.5,), attempt.params)
    assert (running.where, running.ended, running.values) == (
        f"{socket.gethostname()} pid {os.getpid()}",
        0.0,
        (),
    )
