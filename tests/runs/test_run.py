import math
import threading
import time

import numpy as np
import pytest
import torch

from drtune.runs import record
from drtune.runs.journal import Journal, Shipper, entries_of
from drtune.runs.run import StageRun, run_tags
from drtune.runs.system_metrics import next_sample


class Nowhere:
    def open(self, header, journal):
        raise ConnectionError("away")

    def send(self, entries):
        raise AssertionError


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "run.jsonl")


def make(path):
    journal = Journal(path, {"name": "train"})
    return StageRun(journal, Shipper(path, Nowhere()), lambda: "")


def entries(run, kind):
    return [entry for entry in entries_of(run.journal.path) if entry["kind"] == kind]


def test_parameters_are_flat_text_and_the_first_value_stands(run, caplog):
    run.log_params({"train": {"lr": 1e-5, "steps": [1, 2]}, "a[0]": None, "long": "x" * 7000})
    run.log_params({"train.lr": 0.1, "more": True})
    first, second = (entry["values"] for entry in entries(run, "params"))
    assert first["train.lr"] == second["train.lr"] == "1e-05"
    assert (first["train.steps"], first["a_0_"], second["more"]) == ("[1, 2]", "null", "true")
    assert len(first["long"]) == 6000
    assert "parameter train.lr: is 1e-05 already, 0.1 is not recorded" in caplog.text


def test_metrics_of_any_number_type(run):
    run.log_metrics({"a": np.float32(0.5), "b": torch.tensor(2), "c[0]": 3}, step=4)
    run.log_metrics({"d": 1})
    first, second = entries(run, "metrics")
    assert (first["step"], first["values"]) == (4, {"a": 0.5, "b": 2.0, "c_0_": 3.0})
    assert second["step"] == 0


def test_numbers_that_are_not_finite_are_kept_as_text(run):
    run.log_metrics({"a": math.nan, "b": math.inf, "c": -math.inf})
    run.log_metrics({"b": math.inf}, 1)
    assert entries(run, "metrics")[0]["values"] == {"a": "nan", "b": "inf", "c": "-inf"}
    assert [entry["values"] for entry in entries(run, "tags")] == [
        {"drtune.infinite.b": "inf at step 0"},
        {"drtune.infinite.c": "-inf at step 0"},
    ]


def test_a_continued_run_does_not_repeat_steps(run):
    for step in range(3):
        run.log_metrics({"loss": step}, step)
    run.log_metrics({"val": 1}, 0)
    run.journal.release()
    again = make(run.journal.path)
    for step in range(1, 5):
        again.log_metrics({"loss": step, "val": step}, step)
    logged = [(entry["step"], sorted(entry["values"])) for entry in entries(again, "metrics")]
    assert logged == [
        (0, ["loss"]),
        (1, ["loss"]),
        (2, ["loss"]),
        (0, ["val"]),
        (1, ["val"]),
        (2, ["val"]),
        (3, ["loss", "val"]),
        (4, ["loss", "val"]),
    ]


def test_artifacts_are_kept_as_they_were(run, tmp_path):
    plot, folder = tmp_path / "plot.png", tmp_path / "plots"
    plot.write_text("first")
    folder.mkdir()
    (folder / "a.png").write_text("a")
    run.log_artifact(plot, "reports")
    run.log_artifact(folder)
    run.log_text("caf\udce9\r\n", "provenance/note.txt")
    plot.unlink()
    files = run.journal.files
    assert (files / "reports/plot.png").read_text() == "first"
    assert (files / "plots/a.png").read_text() == "a"
    assert (files / "provenance/note.txt").read_bytes() == b"caf\xe9\r\n"
    assert [(entry["folder"], entry["name"]) for entry in entries(run, "artifact")] == [
        ("reports", "plot.png"),
        ("", "plots"),
        ("provenance", "note.txt"),
    ]


def test_dependencies_too_long_for_a_tag_become_a_file(run):
    run.log_deps({"a": "1"})
    assert entries(run, "tags")[0]["values"] == {"dvc.deps": '{"a": "1"}'}
    run.log_deps({f"file{i}": "0" * 32 for i in range(300)})
    assert entries(run, "artifact")[0]["name"] == "dvc-deps.json"


@pytest.mark.parametrize("dirty", [False, True])
def test_provenance(run, tmp_path, dirty, git):
    project = tmp_path / "project"
    project.mkdir()
    git(project, "init", "-q")
    git(project, "commit", "-q", "--allow-empty", "-m", "first")
    (project / "params.yaml").write_text("a: 1\n")
    if dirty:
        (project / "new.py").write_text("x = 1\n")
    run.log_provenance(record.collect(project), project)
    kept = {path.name: path.read_text() for path in (run.journal.files / "provenance").iterdir()}
    assert set(kept) == {"params.yaml", "pip-freeze.txt"} | ({"code.patch"} if dirty else set())
    assert kept["params.yaml"] == "a: 1\n"
    assert "\npytest==" in kept["pip-freeze.txt"]


def test_credentials_go_nowhere(run, tmp_path):
    address = "http://me:secret@host/x"
    run.log_params({"uri": address})
    run.set_tags({"uri": address, "list": [address]})
    assert "secret" not in run.journal.path.read_text()
    assert "http://host/x" in run.journal.path.read_text()


def test_trouble_is_reported_once_and_never_raised(run, tmp_path, caplog):
    run.log_artifact(tmp_path / "missing")
    run.log_artifact(tmp_path / "missing")
    run.log_metrics({"loss": "no number"})
    run.journal.close()
    run.set_tags({"a": 1})
    run.log_input("data", "0" * 32, "training")
    assert caplog.text.count("not recorded: log_artifact") == 1
    for method in ("log_metrics", "set_tags", "log_input"):
        assert f"not recorded: {method}" in caplog.text


def test_without_a_store_the_run_starts_and_ends_and_says_where_it_is(run, caplog):
    run.begin({})
    assert f"journal: {run.journal.path}" in run.link
    run.log_text("x", "x.txt")
    assert not run.close("FINISHED", 10)
    assert entries(run, "status")[-1]["status"] == "FINISHED"
    assert (run.journal.files / "x.txt").exists()
    assert "is not shipped completely and is kept" in caplog.text


def test_a_store_that_hangs_does_not_delay_the_start(run, monkeypatch):
    hang, asked = threading.Event(), threading.Event()
    run.shipper.target.open = lambda header, journal: asked.set() or hang.wait(30)
    run.begin({})
    assert asked.wait(10)
    assert not run.shipper.first_round.is_set(), "it hangs, and the work has begun"
    hang.set()
    assert run.shipper.first_round.wait(10)


def test_a_fork_waits_for_the_first_round_but_not_for_ever(run, monkeypatch):
    monkeypatch.setattr("drtune.runs.journal.FORK_SECONDS", 0.3)
    hooks = []
    monkeypatch.setattr("os.register_at_fork", lambda *, before: hooks.append(before))
    hang = threading.Event()
    run.shipper.target.open = lambda header, journal: hang.wait(30)
    run.begin({})
    (hook,) = hooks
    start = time.monotonic()
    hook()
    assert 0.1 < time.monotonic() - start < 5, "the store hangs"
    hook()
    hang.set()
    assert run.shipper.first_round.wait(10)


def test_a_continued_run_is_running_again(run):
    run.close("KILLED", 0)
    again = make(run.journal.path)
    again.begin({"proc.pid": "2"})
    assert [entry["status"] for entry in entries(again, "status")] == ["KILLED", "RUNNING"]
    assert entries(again, "tags")[-1]["values"] == {"proc.pid": "2", "drtune.resumed": "1"}
    again.close("FINISHED", 10)


def test_tags_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "e1")
    tags = run_tags("train@l2", record.collect(tmp_path), "k" * 64)
    wanted = {
        "drtune.kind": "stage",
        "drtune.stage": "train@l2",
        "drtune.schema": "1",
        "drtune.invocation": "e1",
    }
    assert wanted.items() <= tags.items()
    assert tags["drtune.stage_key"] == "k" * 64
    assert "drtune.stage_key" not in run_tags("train", record.collect(tmp_path), "")
    assert all(isinstance(value, str) and value for value in tags.values())


def test_samples_of_a_continued_run_are_numbered_on():
    assert next_sample({}) == 0
    assert next_sample({"loss": 90, "system/cpu": 4, "system/gpu_0": 3}) == 5
