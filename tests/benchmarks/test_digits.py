from pathlib import Path

import pytest

from benchmarks import digits
from benchmarks.harness import recorded
from drtune.base.files import read_json, write_json
from drtune.base.yaml import read_yaml

ROOT = Path(__file__).resolve().parents[2]


def test_random_weights_have_the_architecture_of_the_shipped_ones(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = digits.architecture(read_yaml(Path("params.yaml")))
    assert found["backbone.name"] == "resnet10t"
    assert (found["backbone.kwargs"]["stem_width"], found["backbone.image_size"]) == (16, 32)
    assert "backbone.weights" not in found


def test_a_tiny_row_is_trained_measured_and_recorded_and_the_table_is_of_all(
    tmp_path, monkeypatch, squares, tiny_params
):
    squares(tmp_path / "images")
    tiny_params(tmp_path / "params.yaml")
    probe, plain = {"train.method": "linear_probe"}, {"train.method": "finetune"}
    rows = {"linear probe": [probe], "plain fine-tuning": [plain, plain | {"train.lr_backbone": 0.003}]}
    monkeypatch.setattr(digits, "ROWS", rows)
    monkeypatch.chdir(tmp_path)
    kept = digits.result(tmp_path / "out", "linear probe", 1)
    write_json(kept, {"commit": "abc123", "found": {"test_accuracy": 0.25}})
    monkeypatch.setattr("sys.argv", ["digits", "--seeds", "2", "--out", "out"])
    digits.main()
    names = [path.name for path in sorted((tmp_path / "out/digits").iterdir())]
    assert names == [f"{row}-{seed}.json" for row in ("linear_probe", "plain_fine_tuning") for seed in (0, 1)]
    table = read_json(tmp_path / "out/digits.json")["rows"]
    first = recorded(kept.with_name("linear_probe-0.json"))["test_accuracy"]
    assert table["linear probe"]["test_accuracy"] == [first, 0.25]
    assert table["linear probe"]["mean"] == pytest.approx((first + 0.25) / 2, abs=1e-4)
    assert min(table["plain fine-tuning"]["test_accuracy"]) > 0.5, "three colours are learnt"
