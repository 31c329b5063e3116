from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks import ablation
from benchmarks.ablation import FULL, GRID, PLAIN, PROBE, ROWS, TUNED, cut, settings
from drtune.config import DataSettings, TrainSettings
from drtune.files import write_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def resolved(row, change=None):
    params = settings(cut("toy", "40", 3) | ROWS[row] | (change or {}))
    train = params[TrainSettings]
    return train, params.method(train.method)


def test_every_row_is_a_training_of_its_own_but_for_what_tuning_adds():
    found = {row: resolved(row) for row in ROWS}
    same = {TUNED, "plain fine-tuning with DR-Tune's settings"}
    different = [str(value) for row, value in found.items() if row not in same]
    assert len(set(different)) == len(different) == len(ROWS) - 2
    assert len({train.epochs * 1000 + train.batch_size for train, _ in found.values()}) == 1


def test_the_rows_of_dr_tune_add_one_part_at_a_time():
    parts = [
        (method.rotation != "off", method.translation, method.confidence != "off" and method.translation)
        for row in ROWS
        if row.startswith(FULL)
        for _, method in [resolved(row)]
    ]
    rotation, translation, confidence = (True, False, False), (False, True, False), (False, True, True)
    assert parts == [(False,) * 3, rotation, translation, confidence, (True,) * 3]
    shipped = settings({})
    assert resolved(FULL)[1] == shipped.method("dr_tune"), "the full method is the shipped one"


def test_tuning_tries_what_is_shipped_and_more():
    tried = {
        (t.optimizer, t.lr_backbone, t.batch_norm) for t, _ in (resolved(TUNED, trial) for trial in GRID)
    }
    assert len(tried) == len(GRID) == 4
    assert {mode for *_, mode in tried} == {"train", "eval"}
    shipped = settings({})[TrainSettings]
    assert (shipped.optimizer, shipped.lr_backbone, shipped.batch_norm) in tried


def test_a_cut_names_set_size_and_seed():
    params = settings(cut("toy", "full", 3) | PLAIN)
    assert params[DataSettings].path == "benchmarks/images/toy"
    assert params[DataSettings].shots is None
    assert params[DataSettings].seed == params[TrainSettings].seed == 3


def test_the_table_pairs_runs_of_one_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "RESULTS", tmp_path)
    for seed, shift in ((0, 0.0), (1, 0.2)):
        runs = {row: {"test_accuracy": 0.5 + shift} for row in ROWS}
        runs[FULL]["test_accuracy"] = 0.6 + shift + 0.02 * seed
        runs[PROBE]["test_accuracy"] = 0.55 + shift
        write_json(tmp_path / f"toy-40-{seed}.json", runs)
    rows = ablation.table(["toy"], [40], [0, 1])
    full = rows["toy, 40 a class"][FULL]
    assert (full["mean"], full["n"]) == (71.0, 2)
    assert full["std"] == pytest.approx(15.56, abs=0.01)
    gain = full["minus tuned fine-tuning"]
    assert (gain["mean"], gain["std"]) == (11.0, pytest.approx(1.41, abs=0.01))
    ablation.show(rows)
    said = capsys.readouterr().out
    assert "| DR-Tune | 71.0 ± 15.6 | 71.0 |" in said
    assert "toy, 40 a class +6.0; mean +6.0 points" in said


def test_the_pipeline_runs_every_cut_that_the_table_reads():
    stages = YAML(typ="safe").load(ROOT / "benchmarks/dvc.yaml")["stages"]
    assert set(stages["compare"]["matrix"]) == {"set", "shots", "seed"}
    (out,) = stages["compare"]["outs"]
    name = next(iter(out)).replace("${item.set}", "toy").replace("${item.shots}", "40")
    assert name.replace("${item.seed}", "3") == str(ablation.result("toy", "40", 3))
    (tuned,) = stages["tune"]["outs"]
    assert next(iter(tuned)).replace("${item.set}", "toy").replace("${item.shots}", "40") == str(
        ablation.tuning("toy", "40")
    )
