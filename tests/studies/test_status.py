import sys
from types import SimpleNamespace

import optuna
import pytest

from drtune.base.errors import StudyError, TrainingError
from drtune.studies.status import as_text, by_age, newest, overview, serve_dashboard, text_of
from drtune.studies.storage import open_storage

PROCESS = {"proc.host": "host", "proc.pid": "17"}
NONE = "there is no study yet; `drtune study run` makes one"


@pytest.fixture
def storage(sqlite_url):
    opened = open_storage(sqlite_url)
    yield opened
    opened.engine.dispose()


def test_without_a_study_it_says_how_to_make_one(storage):
    assert overview(storage) == NONE
    with pytest.raises(StudyError, match="there is no study yet; `drtune study run` makes one"):
        newest(storage)


def test_the_newest_study_is_the_one_made_last_and_listed_last(storage, make_study, end):
    made = make_study("z")
    end(made, 0.5, [0.25])
    make_study("a", trials=7)
    optuna.create_study(study_name="m", storage=storage)
    make_study("z")  # gone on with, not made
    assert by_age(storage) == ["z", "a", "m"]
    assert newest(storage) == "m"
    assert overview(storage).split("\n") == [
        "z: 4 trials: 1 complete, 1 pruned",
        "a: 7 trials: 1 waiting",
        "m: not made by `drtune study run`",
    ]


def rows(text):
    """Cells of the lines that begin with a number."""
    return [line.split() for line in text.split("\n") if line[:1].isdigit()]


def test_the_best_come_first_and_then_what_is_not_done(make_study, end):
    study = make_study(trials=7)
    said = as_text(end(study, 0.5, 0.75, [0.25, 0.3], "the loss is no longer finite", None))
    assert said.startswith("study s: 7 trials: 2 complete, 1 pruned, 1 fail, 1 stopped\n")
    assert said.split("\n")[1].split() == ["trial", "state", "val_accuracy", "a", "b"]
    trials = {trial.first: [str(value) for value in trial.params.values()] for trial in study.standings()}
    assert rows(said) == [
        ["1", "complete", "0.7500", *trials[1]],
        ["0", "complete", "0.5000", "2", "3"],
        ["3", "fail", *trials[3], "the", "loss", "is", "no", "longer", "finite"],
        ["4", "stopped", *trials[4]],
    ]
    assert "params.yaml as it stood: val_accuracy 0.5000; best: 0.7500" in said
    assert "`drtune study apply s` writes trial 1 into params.yaml" in said


def test_a_running_trial_shows_its_last_value_and_where_it_runs(make_study):
    study = make_study()
    attempt = study.next(PROCESS)
    attempt.report(0.125, 0)
    attempt.report(0.25, 1)
    said = as_text(study)
    assert rows(said) == [["0", "running", "0.2500", "2", "3", "host", "pid", "17"]]
    assert "apply" not in said, "nothing is complete yet"


def test_the_least_loss_is_the_best(make_study, end):
    study = make_study(metric="val_loss", direction="minimize")
    said = as_text(end(study, 0.5, 0.75, 0.25))
    assert [row[2] for row in rows(said)] == ["0.2500", "0.5000", "0.7500"]
    assert "params.yaml as it stood: val_loss 0.5000; best: 0.2500" in said


def test_of_many_trials_the_ten_best_are_shown(make_study, end):
    said = as_text(end(make_study(trials=12), *(number / 100 for number in range(12))))
    assert [row[0] for row in rows(said)] == [str(number) for number in range(11, 1, -1)]
    assert "study s: 12 trials: 12 complete" in said
    assert "what moves val_accuracy: " in said
    shares = said.split("what moves val_accuracy: ")[1].split("\n")[0].split(", ")
    assert sorted(share.split()[0] for share in shares) == ["a", "b"]
    numbers = [int(share.split()[1].rstrip("%")) for share in shares]
    assert numbers == sorted(numbers, reverse=True)
    assert sum(numbers) in (99, 100, 101)


def test_two_objectives_have_no_single_best(make_study, end):
    study = make_study(cost="seconds")
    said = as_text(end(study, (0.5, 1.0), (0.75, 2.0), (0.25, 3.0)))
    assert rows(said)[0][:4] == ["1", "complete", "0.7500", "2.0000"]
    assert "as it stood" not in said
    front = "best trade-offs: trials 0, 1; `drtune study apply s --trial 0` writes one of them"
    assert front in said


def test_two_objectives_may_have_one_best(make_study, end):
    said = as_text(end(make_study(cost="seconds"), (0.5, 2.0), (0.75, 1.0)))
    assert "`drtune study apply s` writes trial 1 into params.yaml" in said


def test_a_fault_is_shown_as_it_was_told(make_study, end):
    fault = "[red]rows[/red] [0, 1] :warning: of s.png"
    assert fault in as_text(end(make_study(), str(TrainingError(fault))))


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (3, "3"), (0.00003, "3e-05"), (0.123456, "0.1235"), ("off", "off")],
)
def test_values_are_shown_shortly(value, text):
    assert text_of(value) == text


def test_the_dashboard_is_an_extra(storage, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    monkeypatch.setattr("drtune.studies.status.find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"pip install 'drtune-pipeline\[dashboard\]'"):
        serve_dashboard(storage, 8080)


def test_the_dashboard_is_served_on_this_machine_alone(storage, monkeypatch):
    asked = []

    def run_server(*words, **named):
        asked.append((words, named))
        if named["port"] == 80:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("drtune.studies.status.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", SimpleNamespace(run_server=run_server))
    serve_dashboard(storage, 8080)
    assert asked == [((storage,), {"host": "127.0.0.1", "port": 8080})], "no address with a password"
    with pytest.raises(StudyError, match="port 80: Permission denied; choose another with --port"):
        serve_dashboard(storage, 80)
