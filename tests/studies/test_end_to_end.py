"""A study as a user runs it: DVC, git and MLflow in a repository of their own; each test follows the last."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from drtune.base.files import read_json
from drtune.base.yaml import read_yaml
from drtune.cli.main import app
from drtune.runs.stage_key import current_stage_key, lock_keys, stage_key
from drtune.runs.sync import sync
from drtune.studies.storage import open_storage, storage_url
from drtune.studies.study import Study

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")
STUDY = {
    "backbone.weights": "catalog/random.yaml",
    "train.lr_head": 0.003,
    "study.metric": "val_loss",
    "study.direction": "minimize",
    "study.trials": 4,
    "study.pruner": "none",
    "study.space": {"train.lr_head": [0.003, 0.03, 0.04, 0.05, 1.0e10]},
}
"""The first point is slow and the last one diverges, so that the best is neither, whatever is tried."""
STATUSES = {"COMPLETE": "FINISHED", "FAIL": "FAILED"}
CLOSED = "http://127.0.0.1:1"


@pytest.fixture(scope="module", autouse=True)
def repository(tmp_path_factory, copy_code, squares, tiny_params, empty_database):
    """The current folder: code, images and settings in a commit; an MLflow store without runs."""
    folder = copy_code(tmp_path_factory.mktemp("study") / "project")
    squares(folder / "images")
    tiny_params(folder / "params.yaml", STUDY)
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("DVC_", "MLFLOW_", "OPTUNA_", "DRTUNE_")):
                patch.delenv(name)
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "a")
            patch.setenv(f"GIT_{role}_EMAIL", "a@example.org")
        for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
            patch.setenv(name, os.devnull)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", "")  # the repository's own modules
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / "site"))
        patch.chdir(folder)
        output("git", "init", "-q")
        commit("code")
        yield folder


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def commit(text):
    output("git", "add", "-A")
    output("git", "commit", "-q", "-m", text)


def said(*words):
    """What `drtune study` says."""
    result = CliRunner().invoke(app, ["study", *words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def study():
    """The study as it is stored, without what was read before."""
    storage = open_storage(storage_url(Path.cwd()))
    yield lambda: Study(storage, "s")
    storage.engine.dispose()


class Runs:
    """The runs of the study `s` in MLflow."""

    def __init__(self):
        self.client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
        place = self.client.get_experiment_by_name("drtune/studies")
        found = self.client.search_runs([place.experiment_id])
        (self.parent,) = [run for run in found if run.data.tags["drtune.kind"] == "study"]
        self.trials = {int(run.data.tags["optuna.trial"]): run for run in found if run is not self.parent}
        assert len(found) == 1 + len(self.trials), "one run a trial"

    def points(self, run, name):
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]

    def agree_with(self, trials):
        """One child a trial, which says what Optuna's storage says."""
        assert set(self.trials) == {trial.first for trial in trials}
        for trial in trials:
            run = self.trials[trial.first]
            assert run.info.status == STATUSES[trial.state]
            assert run.data.tags["mlflow.parentRunId"] == self.parent.info.run_id
            assert run.data.tags["optuna.state"] == trial.state.lower()
            assert float(run.data.params["train.lr_head"]) == trial.params["train.lr_head"]
            if trial.state == "COMPLETE":
                assert run.data.metrics["objective"] == trial.values[0]
                assert [step for step, _ in self.points(run, "val_loss")] == [3, 6]
                assert [step for step, _ in self.points(run, "step/loss")] == [1, 2, 3, 4, 5, 6]
            else:
                assert run.data.tags["optuna.reason"] == trial.fault
                assert "finite" in trial.fault


def test_a_study_runs_to_its_end_and_mlflow_shows_it(repository, study):
    text = said("run", "--name", "s", "--workers", "2")
    assert "stages before training: dvc repro extract" in text
    assert set(lock_keys(Path("dvc.lock"))) == {"download", "extract"}
    trials = study().standings()
    assert sorted(trial.first for trial in trials) == [0, 1, 2, 3]
    assert len({trial.params["train.lr_head"] for trial in trials}) == 4
    assert re.findall(r"^ +(\d) of 4  trial \d: ", text, re.MULTILINE) == ["1", "2", "3", "4"]
    (best,) = study().best()
    values = [trial.values[0] for trial in trials if trial.state == "COMPLETE"]
    assert best.values[0] == min(values)
    assert f"`drtune study apply s` writes trial {best.first} into params.yaml" in text
    kept = {path.parent.parent.name for path in repository.glob(".drtune/studies/s/trial-*/seed-0/models")}
    assert kept == {f"trial-{best.first:03d}"}, "the models of the others are not kept"

    runs = Runs()
    runs.agree_with(trials)
    assert runs.parent.info.status == "FINISHED"
    assert runs.parent.info.run_id in text
    assert f"writes trial {best.first} into params.yaml" in runs.parent.data.tags["mlflow.note.content"]
    curve = [value for _, value in sorted(runs.points(runs.parent, "best"))]
    assert curve == sorted(curve, reverse=True)
    assert (len(curve), curve[-1]) == (len(values), min(values))
    assert runs.parent.data.tags["optuna.best_trials"] == str(best.first)
    pictures = {file.path for file in runs.client.list_artifacts(runs.parent.info.run_id)}
    assert {"history.png", "slices.png", "parallel.png", "study.json"} <= pictures


def test_the_winner_is_applied_and_its_training_is_cached(repository, study):
    commit("data")
    (best,) = study().best()
    before, rate = Path("params.yaml").read_text(), best.params["train.lr_head"]
    text = said("apply")
    assert Path("params.yaml").read_text() == before.replace("lr_head: 0.003,", f"lr_head: {rate},")
    changed = [line for line in text.splitlines() if re.match(r"[-+] ", line)]
    assert [re.search(r"lr_head: ([\d.]+)", line)[1] for line in changed] == ["0.003", str(rate)]
    assert f"`dvc repro` takes the model of trial {best.first}, it is not trained again" in text
    model = repository / f".drtune/studies/s/trial-{best.first:03d}/seed-0/models"
    expected = {path.name: path.read_bytes() for path in model.iterdir()}
    commit("the winner")

    text = output("dvc", "repro")
    assert "Stage 'train' is cached - skipping run, checking out outputs" in text
    assert re.findall(r"^Running stage '(\w+)'", text, re.MULTILINE) == ["evaluate"]
    assert {path.name: path.read_bytes() for path in Path("models").iterdir()} == expected
    assert read_json(Path("metrics/test.json"))["test"]["n"] == 9

    runs = Runs()
    winner = runs.trials[best.first]
    keys = lock_keys(Path("dvc.lock"))
    assert keys["train"] == winner.data.tags["drtune.stage_key"]
    assert keys["train"] == stage_key(read_yaml(Path("dvc.lock"))["stages"]["train"])
    place = runs.client.get_experiment_by_name("drtune/pipeline").experiment_id
    found = runs.client.search_runs([place], f"tags.`drtune.key.train` = '{keys['train']}'")
    (pipeline,) = [run for run in found if run.data.tags["drtune.kind"] == "pipeline"]
    assert pipeline.info.status == "FINISHED"
    assert pipeline.data.tags["drtune.run.train"] == winner.info.run_id
    assert f"| train | [trial-{best.first:03d}](" in pipeline.data.tags["mlflow.note.content"]
    assert winner.data.tags["mlflow.parentRunId"] == runs.parent.info.run_id
    assert pipeline.data.metrics["test.accuracy"] == winner.data.metrics["test.accuracy"]
    assert output("dvc", "status", "-q") == ""


def test_the_same_command_again_does_nothing_more(study):
    commit("results")
    before, runs = study().standings(), Runs()
    text = said("run", "--name", "s", "--workers", "1")
    assert " of 4  trial" not in text
    assert study().standings() == before
    again = Runs()
    assert {number: run.info for number, run in again.trials.items()}.keys() == runs.trials.keys()
    assert again.parent.info.status == "FINISHED"
    assert again.points(again.parent, "best") == runs.points(runs.parent, "best")
    assert output("git", "status", "--porcelain") == ""


def test_one_trial_more_while_mlflow_is_away_is_one_trial_more(study, monkeypatch):
    before = {trial.first: trial for trial in study().standings()}
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", CLOSED)
        text = said("run", "--name", "s", "--trials", "5")
    assert "not in a tracking store; the storage keeps all" in text
    assert len(re.findall(r"^ +5 of 5  trial 4: ", text, re.MULTILINE)) == 1
    trials = study().standings()
    assert {trial.first: trial for trial in trials if trial.first in before} == before
    assert len(trials) == 5
    assert sum(trial.state == "FAIL" for trial in trials) == 1, "each of the five points once"
    assert set(Runs().trials) == {0, 1, 2, 3}

    done = sync(Path.cwd(), "drtune", Path("dvc.lock"))
    assert (len(done.shipped), done.left, done.adopted) == (1, {}, [])
    runs = Runs()
    runs.agree_with(trials)
    assert runs.trials[4].data.tags["drtune.stage_key"] == stage_key(
        current_stage_key(Path.cwd(), "train").entry, next(t for t in trials if t.first == 4).params
    )
    assert sync(Path.cwd(), "drtune", Path("dvc.lock")).shipped == []
