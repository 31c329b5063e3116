import math

import pytest

from benchmarks import harness
from benchmarks.harness import each_once, once, recorded
from drtune.base.files import write_json
from drtune.base.runtime import RuntimeSettings
from drtune.base.yaml import read_yaml


def test_a_row_is_run_once_and_its_record_names_the_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "commit", lambda: "abc123")
    calls = []

    def make(*given):
        calls.append(given)
        return {"accuracy": 0.5}

    path = tmp_path / "results" / "row.json"
    assert once(path, make, "set", 3) == once(path, make, "set", 3) == {"accuracy": 0.5}
    assert calls == [("set", 3)]
    assert recorded(path) == {"accuracy": 0.5}
    assert '"commit": "abc123"' in path.read_text()
    assert capsys.readouterr().out == f"running: {path}\nkept: {path}\n"


def test_only_rows_without_a_record_are_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "run_all", lambda job, calls: [job(*call) for call in calls])
    rows = {tmp_path / f"{number}.json": (number,) for number in (4, 9, 16)}
    write_json(tmp_path / "9.json", {"commit": "abc123", "found": "kept"})
    assert each_once(math.sqrt, rows) == [2.0, "kept", 4.0]
    assert recorded(tmp_path / "16.json") == 4.0
    said = [f"kept: {tmp_path}/9.json", f"running: {tmp_path}/4.json", f"running: {tmp_path}/16.json"]
    assert capsys.readouterr().out.splitlines() == said


def test_a_row_works_on_one_processor():
    params = harness.changed(read_yaml(harness.PLAN.resolve().parents[1] / "params.yaml"), {})
    assert (params[RuntimeSettings].num_threads, params[RuntimeSettings].num_workers) == (1, 0)


def test_a_row_that_fails_leaves_no_record(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "row.json", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_commit_is_that_of_the_code_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert harness.commit().removesuffix("-dirty").isalnum()


def test_every_record_names_its_commit():
    records = sorted(harness.KEPT.resolve().glob("*/*.json"))
    assert {path.parent.name for path in records} == {"ablation", "digits", "fair", "study"}
    for path in records:
        assert set(harness.read_json(path)) == {"commit", "found"}, path
