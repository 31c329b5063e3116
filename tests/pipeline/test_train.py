import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from drtune.backbones.model_file import load_model
from drtune.base.errors import BankError
from drtune.base.files import read_json
from drtune.runs import runner as life
from drtune.runs.runner import run_stage
from drtune.training.reporting import fit_and_report
from pipeline import paths, train
from pipeline.train import log_settings, write

FILES = ["history.json", "model.json", "model.safetensors"]
DVC = """
stages:
  train:
    cmd: python -m pipeline train
    deps: [data/dataset, data/bank]
    params: [train, methods.dr_tune]
    outs: [models]
"""
HANGS_AT_STEP_8 = """
import time
from drtune.training.loop import Hooks
from drtune.runs.runner import run_stage
from drtune.training import reporting

def hooks(on_event, on_progress, on_prepare, checkpoints):
    def progress(done, total):
        if done == 8:
            print("here", flush=True)
            time.sleep(60)
    return Hooks(on_event, progress, on_prepare, checkpoints, checkpoint_seconds=0.0)

reporting.Hooks = hooks
run_stage(["train"])
"""


def model_bytes():
    return {name: (paths.MODEL / name).read_bytes() for name in FILES}


def test_it_writes_a_model_that_needs_no_other_file(finished_stage, capsys):
    shutil.rmtree(paths.MODEL)
    made = finished_stage({"train.monitor": "accuracy"})
    train.main(*made)
    assert sorted(path.name for path in paths.MODEL.iterdir()) == FILES
    model, spec, about = load_model(paths.MODEL)
    assert model.num_classes == 3
    assert spec.size == 32
    assert about["classes"] == ["blue", "green", "red"]
    assert about["method"] == "dr_tune"
    assert about["settings"] == made.params.method("dr_tune").model_dump()
    assert about["train"]["epochs"] == 2
    assert about["selected_on"] == "validation accuracy"
    history = read_json(paths.HISTORY)
    assert [record["epoch"] for record in history] == [1, 2]
    assert about["best_epoch"] in (1, 2)
    best = history[about["best_epoch"] - 1]
    assert best["val_accuracy"] == max(record["val_accuracy"] for record in history)
    said = f"dr_tune: kept epoch {about['best_epoch']}, validation accuracy {best['val_accuracy']:.4f}"
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "dr_tune replaces train.batch_norm: train -> converted, train.head_scale: 1.0 -> 0.25"
    assert last == said
    assert about["train"]["head_scale"] == 0.25


def test_the_run_gets_settings_curves_and_artifacts(finished_stage):
    made = finished_stage({"train.method": "finetune"})
    train.main(*made)
    assert made.run.params["methods"] == {"finetune": {}}, "the other methods played no part"
    assert made.run.params["train"]["lr_head"] == made.params.raw["train"]["lr_head"]
    assert set(made.run.params) == {"train", "methods", "backbone", "augment", "made_on"}
    steps = [(values, step) for values, step in made.run.metrics if "step/loss" in values]
    assert [step for _, step in steps] == [1, 2, 3, 4, 5, 6]
    assert set(steps[0][0]) == {
        "step/loss", "step/loss/cross_entropy", "step/lr_backbone", "step/lr_head",
    }  # fmt: skip
    epochs = [(values, step) for values, step in made.run.metrics if "val_accuracy" in values]
    assert [(values["epoch"], step) for values, step in epochs] == [(1, 3), (2, 6)]
    values, step = made.run.metrics[-1]
    assert (set(values), step) == ({"best_epoch", "best_val_accuracy"}, 6)
    assert made.run.artifacts == [str(paths.HISTORY), str(paths.MODEL / "model.json")]


def test_the_same_seed_gives_the_same_bytes(finished_stage):
    made = []
    for seed in (0, 0, 1):
        stage = finished_stage({"train.seed": seed})
        shutil.rmtree(stage.run.checkpoints, ignore_errors=True)
        train.main(*stage)
        made.append(model_bytes())
    assert made[0] == made[1]
    assert made[0]["model.safetensors"] != made[2]["model.safetensors"]


def test_a_bank_of_other_weights_leaves_the_last_model_as_it_was(finished_stage):
    before = model_bytes()
    with pytest.raises(BankError, match="weights_sha256"):
        train.main(*finished_stage({"backbone.seed": 7}))
    assert model_bytes() == before


STAGE_RUNS = """
select run_uuid, status from runs
where run_uuid in (select run_uuid from tags where key = 'drtune.stage_key')
"""


def runs():
    """(id, status, tags, steps of val_accuracy) of every stage's MLflow run."""
    with closing(sqlite3.connect("mlflow.db")) as store:
        return [
            (
                run,
                status,
                dict(store.execute("select key, value from tags where run_uuid = ?", (run,))),
                [
                    step
                    for (step,) in store.execute(
                        "select step from metrics where run_uuid = ? and key = 'val_accuracy' order by step",
                        (run,),
                    )
                ],
            )
            for run, status in store.execute(STAGE_RUNS).fetchall()
        ]


@pytest.fixture
def in_this_process(monkeypatch):
    """Run the stage here, on one thread like its own process would."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(life, "die_with_parent", lambda: None)
    yield lambda: run_stage(["train"])
    torch.set_num_threads(threads)


def test_after_sigterm_the_next_start_ends_as_if_nothing_had_been(
    finished_stage, in_this_process, empty_database, monkeypatch
):
    shutil.copy(empty_database, "mlflow.db")
    uninterrupted = finished_stage({"train.epochs": 4})
    shutil.rmtree(paths.MODEL)
    train.main(*uninterrupted)
    expected = model_bytes()
    shutil.rmtree(paths.MODEL)
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    Path("dvc.yaml").write_text(DVC)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(Path.cwd() / "site"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    process = subprocess.Popen([sys.executable, "-c", HANGS_AT_STEP_8], stdout=subprocess.PIPE, text=True)
    with process.stdout:
        assert "here\n" in process.stdout
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.wait() == 128 + signal.SIGTERM
    (folder,) = Path(".drtune/ckpt").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "state.pt"]
    assert not paths.MODEL.exists()
    ((first, status, tags, steps),) = runs()
    assert (status, steps) == ("KILLED", [3, 6])
    assert tags["drtune.stage_key"] == folder.name

    in_this_process()
    assert model_bytes() == expected
    ((second, status, tags, steps),) = runs()
    assert (second, status, steps) == (first, "FINISHED", [3, 6, 9, 12])
    assert tags["drtune.resumed"] == "1"
    assert list(Path(".drtune/ckpt").iterdir()) == []
    assert Path(paths.DATASET).is_dir()
    assert Path(paths.BANK).is_file()


def test_a_training_is_written_to_any_folder_and_told_to_its_run(finished_stage, tmp_path):
    stage = finished_stage({"train.monitor": "loss", "train.epochs": 3})
    fitted, run = fit_and_report(stage.params, paths.DATASET, paths.BANK, stage.run), stage.run
    log_settings(*stage)
    assert set(run.params) == {"train", "methods", "backbone", "augment", "made_on"}
    assert list(run.params["methods"]) == ["dr_tune"], "the other methods played no part"
    replaced = run.params["methods"]["dr_tune"]["train"]
    assert replaced == stage.params.raw["methods"]["dr_tune"]["train"] == stage.params.replaced
    assert {name: run.params["train"][name] for name in replaced} == replaced
    assert run.params["backbone"]["kwargs"] == {"channels": [8, 8, 16, 16], "stem_width": 8}
    assert run.params["augment"] == stage.params.raw["augment"]
    run.metrics.clear()
    write(fitted, *stage, tmp_path)
    assert read_json(tmp_path / paths.VALIDATION)["best_epoch"] == fitted.progress.best_epoch
    best = fitted.progress.best
    expected = {"best_epoch": best["epoch"], "best_val_accuracy": best["val_accuracy"]}
    assert run.metrics == [(expected, 9)], "at the last step: 3 epochs of 3"
    assert run.artifacts == [str(tmp_path / "models" / name) for name in ("history.json", "model.json")]
