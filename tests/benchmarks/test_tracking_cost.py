from benchmarks.tracking_cost import cost
from drtune.runs.journal import entries_of


def test_every_step_is_written_and_its_cost_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # cost sets it: what was there comes back at the end
    mean, worst = cost(tmp_path, "http://127.0.0.1:9", 100)
    assert 0 < mean <= worst
    (journal,) = (tmp_path / ".drtune/journal").glob("*.jsonl")
    steps = [entry["step"] for entry in entries_of(journal) if entry["kind"] == "metrics"]
    assert steps == list(range(100))
