import pytest

from benchmarks import harness
from benchmarks.harness import once, recorded


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


def test_a_row_that_fails_leaves_no_record(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "row.json", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_commit_is_that_of_the_code():
    assert harness.commit().removesuffix("-dirty").isalnum()


def test_every_record_names_its_commit():
    records = sorted(harness.PLAN.resolve().parent.glob("*_results/*.json"))
    records += sorted(harness.PLAN.resolve().parent.glob("results/*.json"))
    assert len(records) > 100
    for path in records:
        assert set(harness.read_json(path)) == {"commit", "found"}, path
