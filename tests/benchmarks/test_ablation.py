from pathlib import Path

import pytest

from benchmarks import ablation
from benchmarks.ablation import (
    FULL,
    FULL_TUNED,
    GRID,
    PLAIN,
    PROBE,
    ROWS,
    TRIED,
    TUNED,
    cut,
    settings,
    with_trial,
)
from drtune.base.files import read_json, write_json
from drtune.base.yaml import read_yaml
from drtune.sources.settings import DataSettings
from drtune.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def resolved(row, change=None):
    params = settings(cut("toy", "40", 3) | (change or ROWS[row]))
    train = params[TrainSettings]
    return train, params.method(train.method)


def test_every_row_is_a_training_of_its_own_but_for_what_tuning_adds():
    found = {row: resolved(row) for row in ROWS}
    different = [str(value) for row, value in found.items() if row not in TRIED]
    assert len(set(different)) == len(different) == len(ROWS) - 2
    first = GRID[0]
    assert str(resolved(TUNED, with_trial(TUNED, first))) == str(
        found["plain fine-tuning with DR-Tune's settings"]
    )
    assert str(resolved(FULL_TUNED, with_trial(FULL_TUNED, first))) == str(found[FULL])
    assert str(found[FULL_TUNED]) == str(found[FULL])
    assert len({train.epochs * 1000 + train.batch_size for train, _ in found.values()}) == 1


def test_the_rows_of_dr_tune_add_one_part_at_a_time():
    ours = ("DR-Tune from the whole solved head", "DR-Tune, batch norm in eval mode")
    parts = [
        (method.rotation != "off", method.translation, method.confidence != "off" and method.translation)
        for row in ROWS
        if row.startswith(FULL) and row not in (*TRIED, *ours)
        for _, method in [resolved(row)]
    ]
    rotation, translation, confidence = (True, False, False), (False, True, False), (False, True, True)
    assert parts == [(False,) * 3, rotation, translation, confidence, (True,) * 3]
    shipped = settings({})
    full = shipped.method("dr_tune")
    assert resolved(FULL)[1] == full, "the full method is the shipped one"
    train = resolved(FULL)[0]
    assert (train.head_scale, train.batch_norm) == (0.25, "converted")
    without = [train.model_copy(update=change) for change in ({"head_scale": 1.0}, {"batch_norm": "eval"})]
    assert [resolved(row) for row in ours] == [(change, full) for change in without]


def test_plain_fine_tuning_gets_the_start_of_dr_tune_in_one_row_and_the_probe_the_whole_head():
    ours = resolved(FULL)[0]
    plain = resolved("plain fine-tuning with DR-Tune's settings from DR-Tune's start")[0]
    assert (ours.head_init, plain.method) == ("bank", "finetune")
    assert plain.model_copy(update={"method": "dr_tune"}) == ours
    assert (resolved(PROBE)[0].head_init, resolved(PROBE)[0].head_scale) == ("bank", 1.0)


def test_tuning_tries_what_is_shipped_and_more():
    tried = {
        (t.optimizer, t.lr_backbone, t.batch_norm)
        for row in TRIED
        for t, _ in (resolved(row, with_trial(row, trial)) for trial in GRID)
    }
    assert len(tried) == len(GRID) == 5
    assert {mode for *_, mode in tried} == {"train", "eval", "converted"}
    shipped = settings({"train.method": "dr_tune"})[TrainSettings]
    assert (shipped.optimizer, shipped.lr_backbone, shipped.batch_norm) in tried


def test_each_tuned_row_takes_its_own_best_trial(monkeypatch):
    """Scores stand in for trainings: accuracy, then loss, as means over cuts, and each row on its own."""
    monkeypatch.setattr(ablation, "make_task", lambda params, folder: folder.name)
    plain = [
        (0.5, -1.0),
        (0.5, -1.0),
        (0.9, -0.9),
        (0.5, -0.9),
        (0.7, -0.9),
        (0.7, -0.7),
        (0.6, -0.1),
        (0.6, 0.1),
        (0.5, 0.1),
        (0.5, 0.1),
    ]
    ours = [(0.9, -1.0), (0.9, -1.0)] + [(0.8, -0.5), (0.95, -0.5)] * 4
    tried = []

    def run_all(job, calls):
        tried.extend((place["train.method"], place["train.lr_backbone"], task) for place, task in calls)
        return plain + ours

    monkeypatch.setattr(ablation, "run_all", run_all)
    found = ablation.tune("toy", "40", [7, 8])
    rates = [trial["train.lr_backbone"] for trial in GRID]
    methods = ("finetune", "dr_tune")
    assert tried == [(method, rate, cut) for method in methods for rate in rates for cut in ("7", "8")]
    assert (found["seeds"], found[TUNED]["chosen"], found[FULL_TUNED]["chosen"]) == ([7, 8], GRID[2], GRID[0])
    assert found[TUNED]["trials"][1] == GRID[1] | {"val_accuracy": [0.9, 0.5], "val_loss": [0.9, 0.9]}


def test_rows_that_came_out_equal_are_trained_once(monkeypatch):
    monkeypatch.setattr(ablation, "make_task", lambda params, folder: None)
    trained = []

    def run_all(job, calls):
        trained.extend(change for change, _ in calls)
        return [{"number": i} for i in range(len(calls))]

    monkeypatch.setattr(ablation, "run_all", run_all)
    tuned = {
        TUNED: {"chosen": GRID[3]},
        FULL_TUNED: {"chosen": GRID[0]},
    }  # the first of the grid is as shipped
    found = ablation.compare("toy", "40", 3, tuned)
    assert list(found) == list(ROWS) == ablation.rows_of("40")
    assert len(trained) == len(ROWS) - 1
    assert found[FULL_TUNED] == found[FULL]
    (sgd,) = [change for change in trained if change.get("train.optimizer") == "sgd"]
    assert (sgd["train.method"], sgd["data.seed"]) == ("finetune", 3)


def test_a_size_may_leave_out_the_parts(monkeypatch):
    monkeypatch.setattr(ablation, "make_task", lambda params, folder: None)
    monkeypatch.setattr(ablation, "run_all", lambda job, calls: [{"number": i} for i in range(len(calls))])
    tuned = {row: {"chosen": GRID[1]} for row in TRIED}
    found = ablation.compare("toy", "full", 3, tuned)
    assert list(found) == [row for row in ROWS if row not in ablation.PARTS]
    assert {PROBE, TUNED, FULL, FULL_TUNED} < set(found)
    assert [row["number"] for row in found.values()] == list(range(len(found)))


def test_a_size_may_have_epochs_of_its_own():
    own = {shots: cut("toy", shots, 0).get("train.epochs") for shots in ("40", "full")}
    assert own == {"40": None, "full": 5}


def test_a_cut_names_set_size_and_seed():
    params = settings(cut("toy", "full", 3) | PLAIN)
    assert params[DataSettings].source == "benchmarks/images/toy"
    assert params[DataSettings].shots is None
    assert params[DataSettings].seed == params[TrainSettings].seed == 3


def test_a_size_may_have_epochs_of_its_own_the_same_for_every_row():
    plan = read_yaml(ROOT / "benchmarks/plan.yaml")
    epochs = {
        shots: {settings(cut("toy", shots, 0) | change)[TrainSettings].epochs for change in ROWS.values()}
        for shots in ("40", "full")
    }
    assert epochs == {"40": {plan["base"]["train.epochs"]}, "full": {plan["ablation"]["epochs"]["full"]}}


def test_the_table_pairs_runs_of_one_seed(tmp_path, capsys):
    for seed, shift in ((0, 0.0), (1, 0.2)):
        runs = {row: {"test_accuracy": 0.5 + shift} for row in ROWS}
        runs[FULL]["test_accuracy"] = 0.6 + shift + 0.02 * seed
        runs[PROBE]["test_accuracy"] = 0.55 + shift
        write_json(ablation.result(tmp_path, "toy", "40", seed), {"commit": "", "found": runs})
    found = ablation.table(tmp_path, ["toy", "other"], [40, "full"], [0, 1, 2])
    assert {size: list(columns) for size, columns in found.items()} == {"40 images a class": ["toy"]}
    full = found["40 images a class"]["toy"][FULL]
    assert (full["mean"], full["n"]) == (71.0, 2)
    assert full["std"] == pytest.approx(15.56, abs=0.01)
    gain = full["minus tuned fine-tuning"]
    assert (gain["mean"], gain["std"]) == (11.0, pytest.approx(1.41, abs=0.01))
    ablation.show(found)
    said = capsys.readouterr().out.splitlines()
    assert "| test accuracy, 40 images a class | toy, 2 seeds | mean |" in said
    assert "| DR-Tune | 71.0 ± 15.6 | 71.0 |" in said
    ends = "minus the better of `plain fine-tuning` and `linear probe`"
    assert said[-2:] == [
        f"| DR-Tune, {ends} | +6.0 ± 1.4 | +6.0 |",
        f"| {FULL_TUNED}, {ends} | -5.0 ± 0.0 | -5.0 |",
    ]


def test_only_what_has_no_record_is_run_and_the_table_is_of_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "read_yaml", lambda path: {"ablation": PLANNED})
    monkeypatch.setattr(ablation, "tune", lambda name, shots, seeds: {"seeds": seeds})
    ran = []

    def compare(name, shots, seed, tuned):
        ran.append((name, shots, seed))
        return {row: {"test_accuracy": 0.5} for row in ROWS}

    monkeypatch.setattr(ablation, "compare", compare)
    monkeypatch.setattr("sys.argv", ["ablation", "--seed", "1", "--out", str(tmp_path)])
    ablation.main()
    monkeypatch.setattr("sys.argv", ["ablation", "--out", str(tmp_path)])
    ablation.main()
    assert ran == [("toy", "40", 1), ("toy", "40", 0)]
    assert read_json(tmp_path / "ablation.json")["40 images a class"]["toy"][FULL]["n"] == 2
    assert f"kept: {tmp_path / 'ablation/toy-40-1.json'}" in capsys.readouterr().out


PLANNED = {"sets": ["toy"], "shots": [40], "seeds": [0, 1], "tuning_seeds": {"40": [100]}}
