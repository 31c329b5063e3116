import shutil

import pytest

from drtune.training import reporting
from drtune.training.checkpoint import read_checkpoint
from drtune.training.loop import Hooks
from drtune.training.reporting import fit_and_report, in_words, replacements
from pipeline import paths


def trained(params, report, *further):
    return fit_and_report(params, paths.DATASET, paths.BANK, report, *further)


class Enough(Exception):  # noqa: N818
    """Raised by whoever hears of an epoch."""


def epochs(run, prefix=""):
    return [(values[f"{prefix}epoch"], step) for values, step in run.metrics if f"{prefix}epoch" in values]


def test_steps_and_epochs_are_logged_apart_and_epochs_are_told(finished_stage):
    stage, told = finished_stage(), []
    fitted = trained(*stage, told.append)
    steps = [step for values, step in stage.run.metrics if all(name.startswith("step/") for name in values)]
    assert steps == [1, 2, 3, 4, 5, 6], "18 images, 8 a batch, 2 epochs"
    assert epochs(stage.run) == [(1, 3), (2, 6)]
    named = {name for name in stage.run.names if not name.startswith("step/")}
    assert {"train_loss", "val_accuracy", "val_loss", "loss/distribution", "weight/distribution"} <= named
    assert told == fitted.progress.history
    assert (stage.run.params, stage.run.artifacts) == ({}, []), "what becomes of it is not decided here"


def test_of_many_steps_some_are_logged_and_of_epochs_all(finished_stage, monkeypatch):
    monkeypatch.setattr(reporting, "STEP_POINTS", 3)
    stage = finished_stage()
    trained(*stage)
    assert [step for values, step in stage.run.metrics if "step/loss" in values] == [2, 4, 6]
    assert epochs(stage.run) == [(1, 3), (2, 6)]


def test_a_prefix_tells_a_second_training_of_the_same_run(finished_stage):
    stage, told = finished_stage(), []
    trained(*stage, told.append, "seed_1/")
    assert epochs(stage.run, "seed_1/") == [(1, 3), (2, 6)]
    assert all(name.startswith("seed_1/") for name in stage.run.names)
    assert "seed_1/step/loss" in stage.run.names
    assert all("val_accuracy" in record for record in told), "whoever is told sees plain names"


def test_an_epoch_is_logged_before_it_is_judged(finished_stage, monkeypatch):
    stage = finished_stage({"train.epochs": 3})
    monkeypatch.setattr(reporting, "Hooks", lambda *given: Hooks(*given, checkpoint_seconds=0.0))

    def judge(record):
        if record["epoch"] == 2:
            raise Enough

    with pytest.raises(Enough):
        trained(*stage, judge)
    assert epochs(stage.run) == [(1, 3), (2, 6)]
    assert read_checkpoint(stage.run.checkpoints)["progress"].epoch == 1


def test_a_training_goes_on_from_its_folder(finished_stage):
    stage, told = finished_stage(), []
    first = trained(*stage)
    stage.run.metrics.clear()
    again = trained(*stage, told.append)
    assert again.progress.history == first.progress.history
    assert (told, stage.run.metrics) == ([], []), "nothing was left to do"
    shutil.rmtree(stage.run.checkpoints)
    trained(*stage, told.append)
    assert len(told) == 2


def test_what_a_person_watches_stands_below_the_bar(finished_stage, capsys):
    trained(*finished_stage({"train.method": "finetune"}))
    said = capsys.readouterr().out
    assert said.startswith("train finetune: ")
    assert "36/36 images" in said
    assert "epoch 1" in said
    assert "val_accuracy" in said


def test_words_of_a_training_leave_out_sums_and_repetitions():
    values = {
        "epoch": 3,
        "loss": 0.5,
        "train_loss": 0.4,
        "loss/cross_entropy": 0.3333333,
        "weight/cross_entropy": 0.5,
        "lr_head": 0.1,
        "val_accuracy": 0.875,
    }
    assert in_words(values) == "epoch 3  cross_entropy 0.3333  lr_head 0.1  val_accuracy 0.875"


def test_what_the_method_replaces_is_said_in_one_line(stage):
    shipped = {"head_scale": 0.25, "batch_norm": "converted"}
    text = "dr_tune replaces train.batch_norm: train -> converted, train.head_scale: 1.0 -> 0.25"
    assert replacements(stage({"methods.dr_tune.train": shipped}).params) == text
    same = stage({"train.head_scale": 0.25, "methods.dr_tune.train": {"head_scale": 0.25}})
    assert replacements(same.params) == replacements(stage({"train.method": "bss"}).params) == ""
