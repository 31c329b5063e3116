from typing import get_args

import pytest
from dvc.render.converter.vega import VegaConverter

from drtune.backbones.model_file import load_model
from drtune.base.files import read_json
from drtune.training import output
from drtune.training.output import alike, save, validation_of
from drtune.training.reporting import fit_and_report
from drtune.training.settings import Monitor
from pipeline import paths

FILES = ["history.json", "model.json", "model.safetensors"]


@pytest.fixture
def made(finished_stage):
    """A stage whose training has ended, and what came of it."""
    stage = finished_stage({"train.monitor": "loss", "train.epochs": 3})
    return stage, fit_and_report(stage.params, paths.DATASET, paths.BANK, stage.run)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_model_is_the_best_epoch_s_and_says_how_it_was_chosen(made, tmp_path):
    stage, fitted = made
    save(fitted, stage.params, tmp_path / "new" / "models")
    folder = tmp_path / "new" / "models"
    assert list(content(folder)) == FILES
    model, _, about = load_model(folder)
    history = read_json(folder / "history.json")
    best = min(history, key=lambda record: record["val_loss"])
    assert (about["best_epoch"], about["selected_on"]) == (best["epoch"], "validation loss")
    assert (about["method"], about["train"]["epochs"]) == ("dr_tune", 3)
    assert about["made_on"] == {"device": "cpu", "precision": "no"}
    assert about["settings"] == stage.params.method("dr_tune").model_dump()
    kept = fitted.progress.best_state
    assert all((value == kept[name]).all() for name, value in model.state_dict().items())


@pytest.mark.parametrize("monitor", get_args(Monitor))
def test_every_way_to_choose_the_epoch_is_told(finished_stage, tmp_path, monitor):
    stage = finished_stage({"train.monitor": monitor, "train.epochs": 1})
    save(
        fit_and_report(stage.params, paths.DATASET, paths.BANK, stage.run), stage.params, tmp_path / "models"
    )
    said = load_model(tmp_path / "models")[2]["selected_on"]
    assert said.startswith("nothing" if monitor == "last" else f"validation {monitor.split('_')[0]}")
    assert ("one standard error" in said) == (monitor == "accuracy_1se")


def test_the_same_training_gives_the_same_bytes(made, tmp_path):
    stage, fitted = made
    for name in ("one", "two"):
        save(fitted, stage.params, tmp_path / name)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_kill_in_between_leaves_the_model_before(made, tmp_path, monkeypatch):
    stage, fitted = made
    models = tmp_path / "new" / "models"
    save(fitted, stage.params, models)
    before = content(models)

    def cut_short(path, value):
        path.write_text("[")
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "write_json", cut_short)
    with pytest.raises(KeyboardInterrupt):
        save(fitted, stage.params, models)
    assert content(models) == before
    assert [path.name for path in models.parent.iterdir()] == ["models"], "nothing half-written stays"


def test_the_numbers_one_may_choose_by_are_those_of_the_kept_epoch(made):
    _, fitted = made
    best = min(fitted.progress.history, key=lambda record: record["val_loss"])
    assert validation_of(fitted) == {
        "val_accuracy": best["val_accuracy"],
        "val_accuracy_se": best["val_accuracy_se"],
        "val_loss": best["val_loss"],
        "best_epoch": best["epoch"],
    }


def test_dvc_draws_a_history_whose_start_lacks_what_a_step_has():
    history = [{"epoch": 0, "val_accuracy": 0.5}, {"epoch": 1, "lr_head": 0.1, "val_accuracy": 0.75}]
    properties = {"x": "epoch", "y": {"h.json": "val_accuracy"}}
    points, _ = VegaConverter("accuracy", {"h.json": alike(history)}, properties).flat_datapoints("here")
    assert [(point["epoch"], point["val_accuracy"]) for point in points] == [(0, 0.5), (1, 0.75)]
    assert alike(history)[0] == {"epoch": 0, "val_accuracy": 0.5, "lr_head": None}
