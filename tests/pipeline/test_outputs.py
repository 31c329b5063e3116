from typing import get_args

import pytest

from drtune.backbones.model_file import load_model
from drtune.base.files import read_json
from drtune.training.settings import Monitor
from pipeline import outputs
from pipeline.outputs import log_result, log_settings, save
from pipeline.training import trained

FILES = ["history.json", "model.json", "model.safetensors"]


@pytest.fixture
def made(finished_stage):
    """A stage whose training has ended, and what came of it."""
    stage = finished_stage({"train.monitor": "loss", "train.epochs": 3})
    return stage, trained(stage)


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
    assert about["settings"] == stage.params.method("dr_tune").model_dump()
    kept = fitted.progress.best_state
    assert all((value == kept[name]).all() for name, value in model.state_dict().items())


@pytest.mark.parametrize("monitor", get_args(Monitor))
def test_every_way_to_choose_the_epoch_is_told(finished_stage, tmp_path, monitor):
    stage = finished_stage({"train.monitor": monitor, "train.epochs": 1})
    save(trained(stage), stage.params, tmp_path / "models")
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

    monkeypatch.setattr(outputs, "write_json", cut_short)
    with pytest.raises(KeyboardInterrupt):
        save(fitted, stage.params, models)
    assert content(models) == before
    assert [path.name for path in models.parent.iterdir()] == ["models"], "nothing half-written stays"


def test_the_run_gets_settings_result_and_the_small_files(made, tmp_path):
    stage, fitted = made
    run = stage.run
    log_settings(run, stage.params)
    assert set(run.params) == {"train", "methods", "backbone", "augment"}
    assert list(run.params["methods"]) == ["dr_tune"], "the other methods played no part"
    assert run.params["backbone"]["kwargs"] == {"channels": [8, 8, 16, 16], "stem_width": 8}
    assert run.params["augment"] == stage.params.raw["augment"]
    run.metrics.clear()
    save(fitted, stage.params, tmp_path / "models")
    log_result(run, fitted, tmp_path / "models")
    best = fitted.progress.best
    expected = {"best_epoch": best["epoch"], "best_val_accuracy": best["val_accuracy"]}
    assert run.metrics == [(expected, 9)], "at the last step: 3 epochs of 3"
    assert run.artifacts == [str(tmp_path / "models" / name) for name in ("history.json", "model.json")]
