import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import pytest

from drtune.base.errors import TrainingError
from drtune.base.files import read_json
from drtune.params import load
from drtune.runs.stage_key import StageIdentity, stage_key
from drtune.studies import trial
from drtune.studies.study import Pruned
from drtune.studies.trial import lay_out
from drtune.training import reporting
from drtune.training.loop import Hooks
from drtune.training.settings import TrainSettings
from pipeline import paths, train

WEIGHT = "methods.dr_tune.weight"


class Attempt:
    """A trial that hears what is reported and is given up at a step."""

    def __init__(self, params, given_up_at=None, first=4):
        self.number, self.first, self.params = 7, first, params
        self.given_up_at, self.reports = given_up_at, []

    def report(self, value, step):
        self.reports.append((step, value))
        if step == self.given_up_at:
            raise Pruned(f"trial {self.number}: pruned at step {step}")


@pytest.fixture
def life(monkeypatch, recorder):
    """What the run of a trial is opened and held with; its recorder."""

    class Life:
        run, opened, held = recorder(), [], []

    @contextmanager
    def trial_run(*about):
        Life.opened.append(about)
        yield Life.run

    @contextmanager
    def holding(*about):
        Life.held.append(about)
        yield

    monkeypatch.setattr(trial, "trial_run", trial_run)
    monkeypatch.setattr(trial, "holding", holding)
    return Life


@pytest.fixture
def common(finished_stage, new_study, life):
    """What trials have in common, under changed settings of the study and of params.yaml."""

    def make(study=None, change=None):
        params = finished_stage(change).params
        section = {name: params.raw[name] for name in ("train",)} | {WEIGHT: 1.0}
        outs = [{"path": "models"}]
        entry = {"cmd": "train", "deps": [], "params": {"params.yaml": section}, "outs": outs}
        identity = StageIdentity(stage_key(entry), {}, ("models",), entry)
        made = new_study(**(study or {})), params, identity, "record", Path.cwd()
        return SimpleNamespace(study=made[0], identity=identity, all=made)

    return make


def run_trial(about, attempt):
    return trial.run_trial(*about.all, attempt)


def place(seed=0, first=4):
    return Path(f".drtune/studies/s/trial-{first:03d}/seed-{seed}")


def scores(run, prefix=""):
    return [values[f"{prefix}val_accuracy"] for values, _ in run.metrics if f"{prefix}epoch" in values]


def test_a_trial_leaves_what_the_train_stage_would_leave_under_its_settings(common, life, stage):
    attempt, about = Attempt({WEIGHT: 0.25, "train.lr_head": 0.02}), common()
    (value,) = run_trial(about, attempt)
    assert value == max(scores(life.run))
    assert [step for step, _ in attempt.reports] == [1, 2]
    assert attempt.reports[-1][1] == value, "the best so far"
    assert life.run.params["methods"]["dr_tune"]["weight"] == 0.25
    assert life.run.params["train"]["lr_head"] == 0.02
    objective, step = life.run.metrics[-1]
    assert (set(objective), objective["objective"], step) == ({"objective", "seconds"}, value, 0)
    assert 0 < objective["seconds"] < 600
    own = load(place() / "params.yaml")
    assert (own.method("dr_tune").weight, own[TrainSettings].lr_head) == (0.25, 0.02)

    shutil.rmtree(paths.MODEL)
    train.main(*stage({WEIGHT: 0.25, "train.lr_head": 0.02}))
    for name in ("model.safetensors", "model.json", "history.json"):
        assert (place() / "models" / name).read_bytes() == (paths.MODEL / name).read_bytes(), name


def test_its_run_is_that_of_the_training_with_its_settings(common, life):
    about = common()
    about.study.set_run("parent")
    run_trial(about, Attempt({WEIGHT: 0.25}))
    label, number, parent, record, identity, root, given_up = life.opened[0]
    assert (label, number, parent, record, root) == (about.study.label, 4, "parent", "record", Path.cwd())
    assert identity.key == stage_key(about.identity.entry, {WEIGHT: 0.25}) != about.identity.key
    assert given_up is Pruned
    assert life.held == [(life.run, "record", identity, place().absolute(), "train", Path.cwd())]


def test_several_seeds_are_trainings_of_their_own_and_the_mean_counts(common, life):
    attempt = Attempt({WEIGHT: 0.25})
    (value,) = run_trial(common({"seeds": 2}, {"train.seed": 5}), attempt)
    first, second = max(scores(life.run)), max(scores(life.run, "seed_6/"))
    assert value == mean([first, second])
    assert [step for step, _ in attempt.reports] == [1, 2, 4, 5], "no step twice"
    assert attempt.reports[2][1] == mean([first, scores(life.run, "seed_6/")[0]])
    assert {"step/loss", "seed_6/step/loss", "best_val_accuracy"} <= life.run.names
    assert "seed_6/best_val_accuracy" not in life.run.names, "the model is that of the first"
    assert life.run.params["train"]["seed"] == 5
    assert (place(5) / "models/model.safetensors").exists()
    assert not (place(6) / "models").exists()
    assert (place(5) / "state.pt").read_bytes() != (place(6) / "state.pt").read_bytes()


def test_with_a_cost_the_seconds_are_the_second_value(common, life):
    value, seconds = run_trial(common({"cost": "seconds"}), Attempt({}))
    assert life.run.metrics[-1][0] == {"objective": value, "seconds": seconds}


def test_the_seconds_of_earlier_attempts_count(common, life, monkeypatch):
    about, kept = common({"cost": "seconds"}), place().parent / "seconds"
    killed_at(monkeypatch, 5)
    with pytest.raises(Killed):
        run_trial(about, Attempt({}))
    before = read_json(kept)
    assert 0 < before < 600
    kept.write_text(f"{before + 1000}\n")
    monkeypatch.setattr(reporting, "Hooks", Hooks)
    _, seconds = run_trial(about, Attempt({}))
    assert before + 1000 < seconds < before + 1600


def test_a_trial_that_is_given_up_leaves_its_curve_and_no_model(common, life):
    with pytest.raises(Pruned, match="trial 7: pruned at step 1"):
        run_trial(common(), Attempt({}, given_up_at=1))
    assert len(scores(life.run)) == 1, "the epoch is logged before it is judged"
    assert "objective" not in life.run.names
    assert not (place() / "models").exists()


def test_a_training_that_diverges_is_a_fault_of_the_trial(common, life):
    with pytest.raises(TrainingError, match="finite"):
        run_trial(common(), Attempt({"train.lr_backbone": 1e8, "train.lr_head": 1e8}))
    assert not (place() / "models").exists()
    assert "objective" not in life.run.names


class Killed(BaseException):
    """What no code catches."""


def killed_at(monkeypatch, step):
    """The process ends at a step; a checkpoint is written after every epoch."""

    def hooks(on_event, on_progress, on_prepare, checkpoints):
        def progress(done, total):
            if done == step:
                raise Killed

        return Hooks(on_event, progress, on_prepare, checkpoints, checkpoint_seconds=0.0)

    monkeypatch.setattr(reporting, "Hooks", hooks)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_trial_goes_on_from_its_checkpoint_as_if_nothing_had_been(common, life, monkeypatch, seeds):
    about = common({"seeds": seeds}, {"train.epochs": 3})
    expected = Attempt({WEIGHT: 0.25}, first=1)
    value = run_trial(about, expected)
    whole = life.run.metrics
    for step in (5, 8):
        killed_at(monkeypatch, step)
        life.run.metrics = []
        with pytest.raises(Killed):
            run_trial(about, Attempt({WEIGHT: 0.25}))
    monkeypatch.setattr(reporting, "Hooks", Hooks)
    life.run.metrics = []
    attempt = Attempt({WEIGHT: 0.25})
    assert run_trial(about, attempt) == value
    assert attempt.reports == expected.reports, "the new attempt hears of the epochs before too"
    assert life.run.metrics[:4] == whole[6 + 2 : 6 + 2 + 4], "trained is only what is missing"
    model = place() / "models" / "model.safetensors"
    assert model.read_bytes() == (place(first=1) / "models" / "model.safetensors").read_bytes()


def test_a_finished_trial_that_was_not_told_is_not_trained_again(common, life, monkeypatch):
    about, attempt = common(), Attempt({WEIGHT: 0.25})
    value = run_trial(about, attempt)
    model = (place() / "models/model.safetensors").read_bytes()
    killed_at(monkeypatch, 1)
    again = Attempt({WEIGHT: 0.25})
    assert run_trial(about, again) == value
    assert again.reports == attempt.reports
    assert (place() / "models/model.safetensors").read_bytes() == model
    assert len(read_json(place() / "models/history.json")) == 2


def test_what_another_study_of_the_same_name_left_plays_no_part(common, life, monkeypatch):
    about = common({"seeds": 2})
    expected = run_trial(about, Attempt({WEIGHT: 0.25}))
    model = (place() / "models/model.safetensors").read_bytes()
    run_trial(about, Attempt({WEIGHT: 8.0}, first=1))
    shutil.rmtree(place().parent)
    place(first=1).parent.rename(place().parent)
    again = Attempt({WEIGHT: 0.25})
    assert run_trial(about, again) == expected
    assert len(again.reports) == 4
    assert (place() / "models/model.safetensors").read_bytes() == model


def test_two_processes_do_not_run_one_trial(common):
    about = common()
    held = []

    class Second(Attempt):
        def report(self, value, step):
            with pytest.raises(TrainingError, match=f"alive, pid {os.getpid()}"):
                run_trial(about, Attempt({}))
            held.append(step)

    run_trial(about, Second({}))
    assert held == [1, 2]


def test_a_trials_folder_is_one_like_the_projects(tmp_path):
    project, folder = tmp_path / "project", tmp_path / "trial" / "seed-0"
    project.mkdir()
    text = "train:\n  lr: 0.1     # per step\n  epochs: 3\n"
    (project / "params.yaml").write_text(text)
    (project / "dvc.yaml").write_text("stages: {}\n")
    entry = {"cmd": "train", "params": {"params.yaml": {"train.lr": 0.1}}, "outs": [{"path": "model"}]}
    identity = StageIdentity(stage_key(entry), {"code.py": "1"}, ("model",), entry)
    made = lay_out(project, folder, identity, {"train.lr": 0.025})
    assert (folder / "params.yaml").read_text() == "train:\n  lr: 0.025   # per step\n  epochs: 3\n"
    assert sorted(path.name for path in folder.iterdir()) == ["dvc.yaml", "params.yaml"]
    assert made.key == stage_key(entry, {"train.lr": 0.025}) != identity.key
    assert made.entry["params"] == {"params.yaml": {"train.lr": 0.025}}
    assert (made.deps, made.outs, identity.entry["params"]["params.yaml"]["train.lr"]) == (
        identity.deps,
        ("model",),
        0.1,
    )
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    lay_out(project, folder, identity, {"train.lr": 0.1})
    assert (folder / "params.yaml").read_text() == text
    assert (folder / "dvc.lock").read_text() == "schema: '2.0'\n"
