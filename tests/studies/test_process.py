"""A worker in a repository of its own: what it refuses, and that no kill loses or doubles anything."""

import json
import os
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from drtune.params import PARAMS, load
from drtune.runs import lifecycle
from drtune.runs.stage_key import current_stage_key, stage_key
from drtune.studies import process as worker
from drtune.studies import storage
from drtune.studies.design import design_of
from drtune.studies.storage import open_storage, storage_url
from drtune.studies.study import Study, begin
from drtune.training import reporting
from drtune.training.loop import Hooks
from pipeline import paths, train

pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning",
    "ignore:Heartbeat of storage is supposed",
    "ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning",
)
DVC = """
stages:
  train:
    cmd: python -m pipeline train
    deps: [data/dataset, data/bank]
    params: [train, methods.dr_tune]
    outs: [models]
"""
STUDY = {
    "train.epochs": 4,
    "study.metric": "val_loss",
    "study.direction": "minimize",
    "study.trials": 3,
    "study.startup_trials": 1,
    "study.warmup_epochs": 0,
    "study.space": {"train.lr_head": [0.05, 0.000001, 1.0e10]},
}
HANGS = """
import os, runpy, time
from drtune.training.loop import Hooks
from drtune.training import reporting

def hooks(on_event, on_progress, on_prepare, checkpoints):
    def progress(done, total):
        if done == int(os.environ["HANG_AT"]):
            print("here", flush=True)
            time.sleep(60)
    return Hooks(on_event, progress, on_prepare, checkpoints, checkpoint_seconds=0.0)

reporting.Hooks = hooks
runpy.run_module("drtune.studies.process", run_name="__main__")
"""


@pytest.fixture
def repository(finished_stage, empty_database, empty_storage, monkeypatch):
    """The current folder as a DVC repository in which a study can be worked on; returns its stage."""
    made = finished_stage(STUDY)
    shutil.copy(empty_database, "mlflow.db")
    Path(".drtune").mkdir()
    shutil.copy(empty_storage, ".drtune/optuna.db")
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    Path("dvc.yaml").write_text(DVC)
    for name in ("OPTUNA_STORAGE", "DRTUNE_SUPERVISOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(Path.cwd() / "site"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return made


@pytest.fixture
def study(repository):
    """A study of the settings in the current folder; its trials have not begun."""
    storage = open_storage(storage_url(Path.cwd()))
    yield begin(storage, "s", design_of(load(PARAMS), entry()), 3)
    storage.engine.dispose()


def entry():
    return current_stage_key(Path.cwd(), "train").entry


@pytest.fixture
def one_thread():
    """As many threads as a worker's process has, so that the bytes are the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def said(monkeypatch, capsys):
    """Run the worker as `drtune study run` does; returns what it says of a fault, and its exit code."""
    monkeypatch.setattr(lifecycle, "die_with_parent", lambda: None)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["worker", *words])
        monkeypatch.delitem(sys.modules, "drtune.studies.process", raising=False)
        try:
            runpy.run_module("drtune.studies.process", run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
        return capsys.readouterr().err, code

    return run


def test_a_worker_asks_to_die_with_its_supervisor_before_what_loads_for_seconds():
    heavy = "{'torch', 'optuna', 'mlflow', 'dvc', 'sqlalchemy', 'pydantic', 'numpy'}"
    code = f"import sys; import drtune.studies.process; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_outside_a_repository_there_is_no_stage(folder, said):
    text, code = said("s")
    assert "the train stage has no key here; run this in the project's folder, a DVC repository" in text
    assert code == 1


def test_a_study_that_is_not_there_is_named(study, said):
    text, code = said("other")
    assert "study 'other': there is no such study; there are: s" in text
    assert code == 1


def test_a_storage_that_is_away_when_a_worker_begins_is_asked_again(study, said, monkeypatch):
    opened, waits = storage.open_storage, []

    def away_at_first(url):
        if not waits:
            raise storage.StorageAwayError("away")
        return opened(url)

    monkeypatch.setattr(storage, "open_storage", away_at_first)
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    text, code = said("other")
    assert "study 'other': there is no such study" in text
    assert (waits, code) == ([1.0], 1)


def test_faults_of_the_settings_end_with_2(study, said, tiny_params):
    tiny_params(PARAMS, {**STUDY, "train.epochs": 0})
    text, code = said("s")
    assert "train.epochs" in text
    assert code == 2


def test_a_study_about_other_settings_is_not_worked_on(study, said, tiny_params):
    tiny_params(PARAMS, {**STUDY, "train.batch_size": 4})
    text, code = said("s")
    assert "study 's' is about something else" in text
    assert "train.batch_size: 8 then, 4 now" in text
    assert (code, study.trials()[0].state.name) == (1, "WAITING")


def test_after_its_time_it_begins_no_trial(study, said):
    assert said("s", "1.0") == ("", 0)
    assert [trial.state for trial in study.standings()] == ["WAITING"]


def interrupted(step, signum):
    """Start a worker and end it in the middle of its training."""
    environment = dict(os.environ) | {"HANG_AT": str(step)}
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, "s"], stdout=subprocess.PIPE, text=True, env=environment
    )
    with process.stdout:
        assert "here\n" in process.stdout
        process.send_signal(signum)
        process.stdout.read()
    return process.wait()


def runs():
    """Name -> status, tags and metrics, each as (step, value) in the order of the steps."""
    trials = "select run_uuid, name, status from runs where name like 'trial-%' order by name"
    points = "select key, step, value from metrics where run_uuid = ? order by step"
    with closing(sqlite3.connect("mlflow.db")) as store:
        found = {}
        for run, name, status in store.execute(trials).fetchall():
            tags = dict(store.execute("select key, value from tags where run_uuid = ?", (run,)))
            metrics = {}
            for key, step, value in store.execute(points, (run,)):
                metrics.setdefault(key, []).append((step, value))
            found.setdefault(name, []).append((status, tags, metrics))
        return found


def heard(steps, on_progress):
    """`on_progress`, and the steps done are noted."""

    def progress(done, total):
        steps.append(done)
        on_progress(done, total)

    return progress


def logged(recorder, name):
    """What the train stage itself logs of a metric."""
    return [(step, values[name]) for values, step in recorder.metrics if name in values]


def test_killed_trials_go_on_and_ends_of_each_kind_are_told_apart(study, repository, one_thread, monkeypatch):
    shutil.rmtree(paths.MODEL)
    train.main(*repository)  # what the first trial will be, undisturbed
    expected = {path.name: path.read_bytes() for path in paths.MODEL.iterdir()}
    shutil.rmtree(paths.MODEL)

    assert interrupted(5, signal.SIGTERM) == 128 + signal.SIGTERM
    ((status, tags, metrics),) = runs()["trial-000"]
    assert (status, [step for step, _ in metrics["val_loss"]]) == ("KILLED", [3])
    assert "optuna.state" not in tags, "it was stopped, not pruned"
    assert interrupted(8, signal.SIGKILL) == -signal.SIGKILL
    assert [trial.state for trial in study.standings()] == ["FAIL"], "what was killed does not run"
    begun = []
    monkeypatch.setattr(
        reporting, "Hooks", lambda *hooks: Hooks(hooks[0], heard(begun, hooks[1]), *hooks[2:])
    )
    worker.main("s", None)
    assert begun[0] == 6, "steps of the two epochs before, from the checkpoint"

    again = Study(study.storage, "s")
    first, *others = sorted(again.standings(), key=lambda trial: trial.first)
    assert (first.state, first.first) == ("COMPLETE", 0)
    assert sorted(trial.state for trial in others) == ["FAIL", "PRUNED"]
    assert len(again.trials()) == 5, "two more attempts at the first of three"

    made = runs()
    assert {name: len(found) for name, found in made.items()} == {
        f"trial-{trial.first:03d}": 1 for trial in (first, *others)
    }
    ((status, tags, metrics),) = made["trial-000"]
    assert (status, tags["optuna.state"], tags["drtune.resumed"]) == ("FINISHED", "complete", "1")
    for name in ("val_loss", "val_accuracy", "step/loss", "step/lr_head", "epoch"):
        assert metrics[name] == logged(repository.run, name), name
    assert [step for step, _ in metrics["step/loss"]] == list(range(1, 13)), "no gap and no step twice"
    folder = Path(".drtune/studies/s/trial-000/seed-0/models")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected

    for trial in others:
        ((status, tags, metrics),) = made[f"trial-{trial.first:03d}"]
        if trial.state == "PRUNED":
            assert (status, tags["optuna.state"]) == ("KILLED", "pruned")
            assert "pruned at step" in tags["optuna.reason"]
            assert 1 <= len(metrics["val_loss"]) < 4
        else:
            assert (status, tags["optuna.state"]) == ("FAILED", "fail")
            assert tags["optuna.reason"] == trial.fault
            assert "finite" in trial.fault
        assert tags["drtune.stage_key"] == stage_key(entry(), trial.params)
        assert not Path(f".drtune/studies/s/trial-{trial.first:03d}").exists()
    journals = list(Path(".drtune/journal").glob("*.jsonl"))
    assert len(journals) == 3
    for journal in journals:
        assert [json.loads(line)["kind"] for line in journal.read_text().splitlines()].count("run") == 1
