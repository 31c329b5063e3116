import logging
import os
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from drtune.base.errors import TrainingError
from drtune.runs import record, store
from drtune.runs.journal import entries_of, journal_folder
from drtune.runs.lifecycle import Stopped
from drtune.runs.mlflow_study import StudyName, StudyRun, trial_run
from drtune.runs.stage_key import StageIdentity
from drtune.runs.sync import sync

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")
STUDY = StudyName("toy", "s", "token")
IDENTITY = StageIdentity("ab" * 32, {"data": "0" * 32 + ".dir"}, ("models",))
CLOSED = "http://127.0.0.1:1"


class Pruned(Exception):  # noqa: N818
    """The trial is given up."""


@pytest.fixture
def made(tmp_path):
    return record.collect(tmp_path)


def as_process(made, **facts):
    """The record as another process would have it."""
    return replace(made, facts={**made.facts, **{f"proc.{name}": value for name, value in facts.items()}})


@pytest.fixture
def trial(root, made):
    """Open the run of a trial."""

    def open_(number=0, parent="", study=STUDY, record=made):
        return trial_run(study, number, parent, record, IDENTITY, root, Pruned)

    return open_


@pytest.fixture
def client(root):
    return MlflowClient(f"sqlite:///{root}/mlflow.db")


def runs(client, kind="trial"):
    """Runs of the experiment of studies, in the order of their start."""
    experiment = client.get_experiment_by_name("toy/studies")
    if experiment is None:
        return []
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [run for run in found if run.data.tags["drtune.kind"] == kind]


def ran(opened, steps, fault=None):
    """Log a loss at some steps, then end with a fault where there is one."""
    with opened as run:
        for step in steps:
            run.log_metrics({"loss": float(step)}, step)
        if fault:
            raise fault


def points(client, run, name):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def journals(root):
    return sorted(journal_folder(root).glob("*.jsonl"))


def test_a_trial_is_a_child_of_its_study_with_the_key_of_its_training(trial, client):
    with trial(3, "parent") as run:
        run.log_metrics({"loss": 0.5}, 1)
        run.log_params({"train": {"epochs": 2}})
    (found,) = runs(client)
    assert (found.info.run_name, found.info.status) == ("trial-003", "FINISHED")
    tags = found.data.tags
    assert tags["drtune.stage_key"] == IDENTITY.key
    assert (tags["mlflow.parentRunId"], tags["drtune.study"], tags["optuna.trial"]) == ("parent", "s", "3")
    assert tags["optuna.state"] == "complete"
    assert "optuna.reason" not in tags
    assert (found.data.metrics["loss"], found.data.params["train.epochs"]) == (0.5, "2")
    assert client.get_experiment_by_name("toy/pipeline") is None


@pytest.mark.parametrize(
    ("fault", "status", "state"),
    [
        (Pruned("trial 7: pruned at step 2"), "KILLED", "pruned"),
        (TrainingError("the loss is no longer finite"), "FAILED", "fail"),
        (ValueError("a bug"), "FAILED", "fail"),
        (Stopped(15), "KILLED", None),
        (KeyboardInterrupt(), "KILLED", None),
    ],
)
def test_the_end_of_a_trial_is_told_apart(trial, client, fault, status, state):
    with pytest.raises(type(fault)):
        ran(trial(), [1], fault)
    (found,) = runs(client)
    assert found.info.status == status
    assert found.data.tags.get("optuna.state") == state
    assert found.data.tags.get("optuna.reason") == (str(fault) if state else None)
    assert points(client, found, "loss") == [(1, 1.0)], "the curve stays"


@pytest.mark.parametrize("first", [Stopped(15), ValueError("a bug"), None])
def test_a_trial_goes_on_in_its_run_also_where_its_end_was_not_told(trial, client, root, first):
    with suppress(Stopped, ValueError):
        ran(trial(), [1, 2], first)
    ran(trial(), [2, 3])
    (found,) = runs(client)
    assert found.info.status == "FINISHED"
    assert (found.data.tags["drtune.resumed"], found.data.tags["optuna.state"]) == ("1", "complete")
    assert not found.data.tags.get("optuna.reason"), "what stopped it once is not how it stands"
    assert points(client, found, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    (journal,) = journals(root)
    assert [entry["kind"] for entry in entries_of(journal)].count("run") == 1


def test_a_trial_goes_on_where_its_journal_is_on_another_machine(trial, client, root, made):
    with pytest.raises(Stopped):
        ran(trial(), [1], Stopped(15))
    shutil.rmtree(journal_folder(root))
    ran(trial(record=as_process(made, host="another", pid="1")), [1, 2])
    (found,) = runs(client)
    assert (found.info.status, found.data.tags["proc.host"]) == ("FINISHED", "another")
    assert points(client, found, "loss") == [(1, 1.0), (2, 2.0)]


def test_trials_of_equal_number_in_other_studies_are_other_runs(trial, client):
    for study in (STUDY, replace(STUDY, name="t", token="other"), replace(STUDY, token="made again")):
        ran(trial(study=study), [])
    ran(trial(1), [])
    found = runs(client)
    assert [run.data.tags["drtune.study"] for run in found] == ["s", "t", "s", "s"]
    assert len({run.data.tags["drtune.trial_id"] for run in found}) == 4
    assert {run.data.tags["drtune.stage_key"] for run in found} == {IDENTITY.key}


def test_a_trial_goes_on_while_the_store_is_away_and_sync_ships_it(trial, client, root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", CLOSED)
    ran(trial(0, "parent"), [1])
    with pytest.raises(Pruned):
        ran(trial(1, "parent"), [2], Pruned("behind"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert runs(client) == []
    done = sync(root, "toy", root / "dvc.lock")
    assert (len(done.shipped), done.left) == (2, {})
    first, second = runs(client)
    assert [run.info.status for run in (first, second)] == ["FINISHED", "KILLED"]
    assert {run.data.tags["mlflow.parentRunId"] for run in (first, second)} == {"parent"}
    assert (points(client, first, "loss"), points(client, second, "loss")) == ([(1, 1.0)], [(2, 2.0)])
    pipeline = client.get_experiment_by_name("toy/pipeline").experiment_id
    assert client.search_runs([pipeline]) == []
    assert sync(root, "toy", root / "dvc.lock").shipped == []
    assert len(runs(client)) == 2


@pytest.fixture
def study_run(root, made):
    """Begin the run of a study, as the process of a record."""

    def begin(study=STUDY, run_id="", record=made):
        run = StudyRun(study, root, run_id)
        run.begin(record, {"trials": 4, "space": {"a": {"low": 1, "high": 2}}})
        return run

    return begin


def test_a_study_has_one_run_that_says_how_it_stands(study_run, client, root, tmp_path):
    run = study_run()
    (found,) = runs(client, "study")
    assert (found.info.run_name, found.info.status) == ("study:s", "RUNNING")
    assert (found.data.params["study.trials"], found.data.params["study.space.a.low"]) == ("4", "1")
    assert found.data.tags["proc.pid"] == str(os.getpid())
    assert run.link.endswith(f"{run.run_id}?workflowType=machine_learning")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "history.png").write_bytes(b"picture")
    for _ in range(2):
        run.tell([0.5, 0.5, 0.75], {"optuna.trials": "4: 3 complete", "optuna.best_params": ""}, "# words")
    run.attach(tmp_path / "report")
    run.end("FINISHED")
    (found,) = runs(client, "study")
    assert found.info.status == "FINISHED"
    assert points(client, found, "best") == [(1, 0.5), (2, 0.5), (3, 0.75)], "no point twice"
    assert found.data.tags["optuna.trials"] == "4: 3 complete"
    assert found.data.tags["mlflow.note.content"] == "# words"
    assert "optuna.best_params" not in found.data.tags
    assert [artifact.path for artifact in client.list_artifacts(run.run_id)] == ["history.png"]
    assert (root / "mlruns/toy/studies" / run.run_id / "artifacts/history.png").exists()


@pytest.mark.parametrize("remembered", [True, False])
def test_a_resumed_study_goes_on_in_its_run(study_run, client, remembered):
    first = study_run()
    first.tell([0.5], {})
    first.end("KILLED")
    again = study_run(run_id=first.run_id if remembered else "")
    assert again.run_id == first.run_id
    assert [run.info.status for run in runs(client, "study")] == ["RUNNING"]
    again.tell([0.5, 0.6], {})
    again.end("FINISHED")
    (found,) = runs(client, "study")
    assert found.info.status == "FINISHED"
    assert points(client, found, "best") == [(1, 0.5), (2, 0.6)]


def test_a_study_of_the_same_name_made_again_is_another(study_run, client):
    assert len({study_run().run_id, study_run(replace(STUDY, token="another")).run_id}) == 2


def test_a_run_that_is_remembered_from_another_store_is_made_anew(study_run, client, trial):
    run = study_run(run_id="0" * 32)
    assert run.run_id != "0" * 32
    assert [found.info.run_id for found in runs(client, "study")] == [run.run_id]
    assert run.run_id in run.link


def test_trials_made_before_their_study_had_a_run_get_it_as_parent(study_run, client, trial):
    ran(trial(), [])
    ran(trial(study=replace(STUDY, name="t", token="other")), [])
    run = study_run()
    run.tell([0.5], {})
    assert [found.data.tags.get("mlflow.parentRunId") for found in runs(client)] == [run.run_id, None]


def test_a_store_that_is_away_is_said_once_and_hinders_nothing(study_run, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:1")
    with caplog.at_level(logging.WARNING):
        run = study_run(run_id="remembered")
        run.tell([0.5], {"a": "b"})
        run.attach(tmp_path)
        run.end("FINISHED")
    (said,) = caplog.messages
    assert "127.0.0.1:1" in said
    assert "does not answer" in said
    assert "the study goes on, `drtune study resume` completes it" in said
    assert "s3cret" not in said
    assert (run.run_id, run.link) == ("remembered", ""), "trials still get their parent"


def test_a_store_that_comes_back_gets_what_it_missed(study_run, client, monkeypatch, caplog):
    run = study_run()
    run.tell([0.5], {})

    def away(uri):
        raise ConnectionError("does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(store, "check_reachable", away)
        run.tell([0.5, 0.6], {"a": "1"})
    run.tell([0.5, 0.6, 0.6], {"a": "2"})
    run.end("FINISHED")
    (found,) = runs(client, "study")
    assert points(client, found, "best") == [(1, 0.5), (2, 0.6), (3, 0.6)]
    assert (found.info.status, found.data.tags["a"]) == ("FINISHED", "2")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("by", ["sync", "another study"])
def test_the_run_of_a_study_whose_process_died_does_not_stay_running(client, root, study_run, made, by):
    dead = study_run(record=as_process(made, start="1.00"))  # the process with this number is another one
    assert [run.info.status for run in runs(client, "study")] == ["RUNNING"]
    if by == "sync":
        assert sync(root, "toy", root / "dvc.lock").ended == [dead.run_id]
    else:
        study_run(replace(STUDY, name="t", token="other"))
    found = next(run for run in runs(client, "study") if run.info.run_id == dead.run_id)
    assert (found.info.status, found.data.tags["drtune.orphaned"]) == ("KILLED", "true")
    alive = study_run()
    assert sync(root, "toy", root / "dvc.lock").ended == [], "it runs"
    alive.end("FINISHED")
    assert client.get_run(dead.run_id).info.status == "FINISHED"
