import signal
import time
from statistics import mean

import pytest
import torch

from drtune.base.errors import BankError, TrainingError
from drtune.runs.lifecycle import exclusive
from drtune.studies.study import Pruned
from drtune.studies.worker import (
    Score,
    Stopwatch,
    made_with,
    settle,
    take_over,
    tidy,
    trial_folder,
    work_through,
)

VARIABLE = "OPTUNA_STORAGE"
PROCESS = {"proc.pid": "1", "proc.host": "elsewhere"}


def outcome(made):
    return [(trial.first, trial.state) for trial in made.standings()]


def points(made):
    return {(trial.params["a"], trial.params["b"]) for trial in made.standings()}


# --- processes


def test_four_workers_make_48_different_trials(
    make_study, sqlite_url, spawn, toy_worker, notes, wait_for, tmp_path
):
    made = make_study(trials=48)
    holds = [tmp_path / f"hold-{first}" for first in range(4)]  # until all four have begun
    for hold in holds:
        hold.touch()
    workers = [spawn(toy_worker, "s", **{VARIABLE: sqlite_url}) for _ in range(4)]
    wait_for(lambda: len(notes("begin")) == 4)
    for hold in holds:
        hold.unlink()
    assert [worker.wait() for worker in workers] == [0] * 4, [worker.said for worker in workers]
    assert outcome(made) == [(first, "COMPLETE") for first in range(48)]
    assert len(points(made)) == 48
    assert sorted(first for _, first, *_ in notes("end")) == list(range(48))
    assert len({pid for *_, pid in notes("end")}) == 4
    assert len(made.trials()) == 48
    for trial in made.standings():
        assert trial.values == (trial.params["a"] * trial.params["b"],)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_killed_worker_costs_one_trial_a_second_attempt(
    kind, request, make_study, spawn, toy_worker, notes, wait_for, tmp_path
):
    url = request.getfixturevalue("postgres").new() if kind == "postgresql" else None
    url = url or request.getfixturevalue("sqlite_url")
    made = make_study(trials=6, url=url)
    (tmp_path / "hold-2").touch()
    workers = [spawn(toy_worker, "s", **{VARIABLE: url}) for _ in range(2)]
    ((_, _, number, pid),) = wait_for(lambda: [note for note in notes("begin") if note[1] == 2])
    (victim,) = (worker for worker in workers if worker.pid == pid)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    (tmp_path / "hold-2").unlink()
    codes = [worker.wait() for worker in workers if worker is not victim]
    codes.append(spawn(toy_worker, "s", **{VARIABLE: url}).wait())  # if the other was through before the kill
    assert codes == [0, 0]
    attempts = [(first, attempt) for word, first, attempt, _ in notes("begin") if first == 2]
    assert attempts == [(2, number), (2, attempts[1][1])]
    assert [state for _, state in outcome(made)] == ["COMPLETE"] * 6
    assert len({first for first, _ in outcome(made)}) == len(points(made)) == 6
    assert len(made.trials()) == 7
    assert [trial.state.name for trial in made.trials() if trial.number == number] == ["FAIL"]


def test_a_trial_whose_workers_are_killed_twice_has_failed_and_counts(
    make_study, sqlite_url, spawn, toy_worker, notes, wait_for, tmp_path
):
    made = make_study(trials=3)
    (tmp_path / "hold-1").touch()
    for times in (1, 2):
        worker = spawn(toy_worker, "s", **{VARIABLE: sqlite_url})
        wait_for(lambda times=times: [first for _, first, *_ in notes("begin")].count(1) == times)
        worker.kill()
        worker.wait()
    assert spawn(toy_worker, "s", **{VARIABLE: sqlite_url}).wait() == 0
    assert sorted(outcome(made)) == [(0, "COMPLETE"), (1, "FAIL"), (3, "COMPLETE")]
    (failed,) = (trial for trial in made.standings() if trial.state == "FAIL")
    assert failed.fault == "its process died, also when it was tried again"
    assert failed.ended > 0


def test_a_trial_whose_worker_is_told_to_stop_is_continued_each_time(
    make_study, sqlite_url, spawn, toy_worker, notes, wait_for, tmp_path
):
    made = make_study(trials=2)
    (tmp_path / "hold-1").touch()
    for times in (1, 2, 3):
        worker = spawn(toy_worker, "s", **{VARIABLE: sqlite_url})
        wait_for(lambda times=times: [first for _, first, *_ in notes("begin")].count(1) == times)
        worker.kill(signal.SIGTERM)
        assert worker.wait() == 128 + signal.SIGTERM
        assert outcome(made) == [(0, "COMPLETE"), (1, "FAIL")]
        assert made.standings()[1].ended == 0
    (tmp_path / "hold-1").unlink()
    assert spawn(toy_worker, "s", **{VARIABLE: sqlite_url}).wait() == 0
    assert outcome(made) == [(0, "COMPLETE"), (1, "COMPLETE")]
    assert len(made.trials()) == 5


def test_a_database_that_is_killed_loses_and_doubles_no_trial(
    make_study, postgres, spawn, toy_worker, notes, wait_for, tmp_path
):
    url = postgres.new()
    made = make_study(trials=16, url=url)
    holds = [tmp_path / f"hold-{first}" for first in range(3)]  # until all three have opened the storage
    for hold in holds:
        hold.touch()
    workers = [spawn(toy_worker, "s", **{VARIABLE: url, "STEP_SECONDS": "0.1"}) for _ in range(3)]
    wait_for(lambda: len(notes("begin")) == 3)
    for hold in holds:
        hold.unlink()
    for ended in (3, 8):
        wait_for(lambda ended=ended: len(notes("end")) >= ended)
        postgres.stop()
        time.sleep(0.5)
        postgres.start()
    assert [worker.wait() for worker in workers] == [0] * 3, [worker.said for worker in workers]
    made.storage.engine.dispose()
    assert [state for _, state in outcome(made)] == ["COMPLETE"] * 16
    assert len(points(made)) == 16
    trained = [first for _, first, *_ in notes("end")]
    assert len(trained) == len(set(trained)) == 16
    assert set(trained) == {first for first, _ in outcome(made)}
    for worker in workers:
        assert "trying again for 600 s" in worker.said
        assert "v3ry-s3cret" not in worker.said
        assert "Traceback" not in worker.said


# --- one trial


def test_a_worker_stops_after_the_time(make_study, tmp_path):
    made = make_study(trials=3)
    ran = []
    work_through(made, tmp_path, PROCESS, time.time() - 1, ran.append)
    assert ran == []
    work_through(made, tmp_path, PROCESS, None, lambda attempt: ran.append(attempt.number) or [1.0])
    assert ran == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "state", "fault"),
    [
        (Pruned("behind"), "PRUNED", ""),
        (TrainingError("the loss is no longer finite"), "FAIL", "the loss is no longer finite"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            "FAIL",
            "out of GPU memory: CUDA out of memory",
        ),
    ],
)
def test_the_end_of_one_trial_is_not_that_of_the_worker(make_study, tmp_path, error, state, fault):
    made = make_study(trials=2)

    def run(attempt):
        if attempt.number == 0:
            attempt.report(0.5, 0)
            raise error
        return [1.0]

    work_through(made, tmp_path, PROCESS, None, run)
    first, second = made.standings()
    assert (first.state, first.fault, second.state) == (state, fault, "COMPLETE")
    assert first.ended > 0


@pytest.mark.parametrize("error", [SystemExit(143), KeyboardInterrupt(), ValueError("a mistake of ours")])
def test_what_ends_the_worker_leaves_its_trial_to_the_next(make_study, error):
    made = make_study(trials=2)

    def run(attempt):
        raise error

    with pytest.raises(type(error)):
        settle(made.next(PROCESS), run)
    assert made.next(PROCESS).first == 0


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (ValueError("a mistake of ours"), 2),
        (OSError(28, "No space left on device"), 4),
        (BankError("gone"), 4),
    ],
)
def test_a_mistake_of_ours_ends_only_two_workers(make_study, error, times):
    made = make_study(trials=2)

    def run(attempt):
        raise error

    for _ in range(times):
        attempt = made.next(PROCESS)
        assert attempt.first == 0
        with pytest.raises(type(error)):
            settle(attempt, run)
    attempt = made.next(PROCESS)
    assert (attempt.first == 0) == (times == 4), "what can be mended never uses a trial up"


def test_a_stop_is_not_hidden_by_a_storage_that_is_away(make_study, monkeypatch):
    attempt = make_study(trials=2).next(PROCESS)

    def away():
        raise ConnectionError

    def run(attempt):
        raise SystemExit(143)

    monkeypatch.setattr(attempt, "stopped", away)
    with pytest.raises(SystemExit, match="143"):
        settle(attempt, run)


# --- what is left on the disk


def left(made, root):
    return sorted(
        int(path.name.removeprefix("trial-")) for path in trial_folder(root, made.name, 0).parent.iterdir()
    )


def test_the_models_of_the_best_and_of_those_that_go_on_are_kept(make_study, tmp_path):
    made = make_study(trials=9)
    attempts = [made.next(PROCESS) for _ in range(8)]
    for number in range(8):
        folder = trial_folder(tmp_path, "s", number) / "seed-0"
        folder.mkdir(parents=True)
        (folder / "model").write_text("weights")
    attempts[0].complete([0.5])
    attempts[1].complete([0.9])
    attempts[2].complete([0.7])
    attempts[3].report(0.99, 0)
    attempts[3].pruned()
    attempts[4].failed("mine")
    attempts[5].stopped()
    tidy(made, tmp_path)
    assert left(made, tmp_path) == [1, 5, 6, 7]
    assert (trial_folder(tmp_path, "s", 1) / "seed-0/model").read_text() == "weights"
    attempts[6].complete([0.95])
    again = made.next(PROCESS)
    assert again.first == 5
    again.failed("mine")
    tidy(made, tmp_path)
    assert left(made, tmp_path) == [6, 7]


def test_the_models_of_the_front_are_kept(make_study, tmp_path):
    made = make_study(trials=4, cost="seconds")
    for values in ([0.9, 20.0], [0.5, 5.0], [0.4, 9.0], [0.8, 30.0]):
        attempt = made.next(PROCESS)
        trial_folder(tmp_path, "s", attempt.first).mkdir(parents=True)
        attempt.complete(values)
    tidy(made, tmp_path)
    assert left(made, tmp_path) == [0, 1]


def test_a_continued_trial_is_kept_under_its_first_number(make_study, tmp_path):
    made = make_study(trials=2)
    made.next(PROCESS).stopped()
    for number in (0, 1):
        trial_folder(tmp_path, "s", number).mkdir(parents=True)
    made.next(PROCESS).complete([0.9])
    made.next(PROCESS).complete([0.1])
    tidy(made, tmp_path)
    assert trial_folder(tmp_path, "s", 0).exists()


def test_what_another_stage_key_left_in_a_folder_is_removed(tmp_path):
    folder = tmp_path / "trial-000"
    with exclusive(folder):
        assert not made_with(folder, "one")
        take_over(folder, "one")
        (folder / "seed-0").mkdir()
        (folder / "seed-0" / "checkpoint").write_text("weights")
        take_over(folder, "one")
        assert (made_with(folder, "one"), made_with(folder, "two")) == (True, False)
        assert (folder / "seed-0" / "checkpoint").exists()
        take_over(folder, "two")
        assert (made_with(folder, "one"), made_with(folder, "two")) == (False, True)
        assert sorted(path.name for path in folder.iterdir()) == ["key.json", "lock"]


def test_the_seconds_of_a_trial_go_on_in_its_next_attempt(tmp_path, monkeypatch):
    clock = iter([100.0, 107.0, 109.0, 5.0, 6.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    first = Stopwatch(tmp_path / "seconds.json")
    assert [first.read(), first.read()] == [7.0, 9.0]
    assert Stopwatch(tmp_path / "seconds.json").read() == 10.5


# --- the value of a trial


class Heard:
    """An attempt that only listens."""

    def __init__(self):
        self.reports = []

    def report(self, value, step):
        self.reports.append((step, value))


def record(epoch, accuracy, loss):
    return {"epoch": epoch, "val_accuracy": accuracy, "val_accuracy_se": 0.15, "val_loss": loss}


HISTORY = [
    record(0, 0.2, 1.5),
    record(1, 0.6, 0.4),
    record(2, 0.6, 0.3),
    record(3, 0.7, 0.9),
    record(4, 0.7, 1.1),
]


@pytest.mark.parametrize(
    ("metric", "monitor", "values"),
    [
        ("val_accuracy", "accuracy", [0.2, 0.6, 0.6, 0.7, 0.7]),
        ("val_accuracy", "loss", [0.2, 0.6, 0.6, 0.6, 0.6]),
        ("val_loss", "accuracy", [1.5, 0.4, 0.3, 0.9, 0.9]),
        ("val_loss", "loss", [1.5, 0.4, 0.3, 0.3, 0.3]),
        ("val_accuracy", "last", [0.2, 0.6, 0.6, 0.7, 0.7]),
        ("val_loss", "last", [1.5, 0.4, 0.3, 0.9, 1.1]),
        ("val_accuracy", "accuracy_1se", [0.2, 0.6, 0.6, 0.7, 0.7]),
        ("val_loss", "accuracy_1se", [1.5, 0.4, 0.3, 0.9, 1.1]),
    ],
)
def test_the_value_is_the_metric_at_the_epoch_that_is_kept(metric, monitor, values):
    heard = Heard()
    score = Score(heard, metric, monitor)
    for one in HISTORY:
        score.epoch(one)
    score.end_training()
    assert heard.reports == list(enumerate(values))
    assert score.value == values[-1]


def test_equal_epochs_keep_the_first_and_equal_losses_the_more_accurate():
    scores = [Score(Heard(), metric, "loss") for metric in ("epoch", "val_accuracy")]
    for score in scores:
        for one in (record(1, 0.5, 0.3), record(2, 0.6, 0.3), record(3, 0.6, 0.3)):
            score.epoch(one)
    assert [score.value for score in scores] == [2, 0.6]


def test_an_epoch_near_the_best_gives_its_value_and_one_far_below_does_not():
    score = Score(Heard(), "val_accuracy", "accuracy_1se")
    for one in (record(1, 0.8, 0.3), record(2, 0.7, 0.4), record(3, 0.6, 0.5)):
        score.epoch(one)
    assert score.value == 0.7


def test_trainings_with_several_seeds_are_averaged_and_their_steps_go_on():
    heard = Heard()
    score = Score(heard, "val_accuracy", "accuracy")
    for shift in (0.0, 0.1, 0.2):
        for one in HISTORY:
            score.epoch(one | {"val_accuracy": one["val_accuracy"] + shift})
        score.end_training()
    assert score.value == pytest.approx(mean([0.7, 0.8, 0.9]))
    steps = [step for step, _ in heard.reports]
    assert steps == list(range(15))
    assert heard.reports[5][1] == pytest.approx(mean([0.7, 0.3]))
    assert heard.reports[14][1] == pytest.approx(score.value)


def test_a_training_that_starts_at_epoch_one_or_late_has_growing_steps():
    heard = Heard()
    score = Score(heard, "val_accuracy", "accuracy")
    for epochs in ((1, 2), (0, 1), (1, 3)):
        for epoch in epochs:
            score.epoch(record(epoch, 0.5, 1.0))
        score.end_training()
    steps = [step for step, _ in heard.reports]
    assert steps == sorted(set(steps))
