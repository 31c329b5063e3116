import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drtune.cli import runs as cli_runs
from drtune.cli.main import app
from drtune.runs import restore, verify
from drtune.runs.restore import Restored
from drtune.runs.run_store import RunStore
from drtune.runs.verify import Compared


@pytest.fixture
def project(tmp_path, empty_database, monkeypatch):
    """The current folder, with a store that holds one run."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    client = RunStore(tmp_path).client
    experiment = client.create_experiment("drtune/pipeline", (tmp_path / "mlruns").as_uri())
    tags = {"drtune.stage": "train", "drtune.stage_key": "a" * 64, "git.commit": "c" * 40}
    client.create_run(experiment, 1, tags, "train dr_tune")
    return tmp_path


def said(*words, code=0):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.output


def test_runs_are_listed_as_a_table_and_as_json(project):
    table = said("runs")
    assert "aaaaaaaa" in table
    assert "cccccccc" in table
    assert "mlflow ui  then  http://127.0.0.1:5000/" in table
    (row,) = json.loads(said("runs", "--json", "--method", "dr_tune"))
    assert (row["stage"], row["status"]) == ("train", "RUNNING")
    assert "no such run" in said("runs", "--method", "finetune")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("runs", "--commit", "nope"), "nope: no such commit, branch, tag or experiment"),
        (("runs", "--key", "xyz"), "--key xyz: expected hexadecimal digits"),
        (("restore", "nope"), "run 'nope': no such run"),
        (("verify", "nope"), "run 'nope': no such run"),
        (("restore", "train dr_tune"), "its commit c+ is not in"),
        (("model", "register", "digits"), "no finished training in this store"),
        (("model", "register", "digits", "train dr_tune"), "made no model"),
        (("model", "materialize"), "give one of --out FOLDER and --register NAME"),
        (("model", "materialize", "--out", "x", "--register", "y"), "give one of --out FOLDER"),
        (("model", "materialize", ".dvc", "--out", "x"), "holds no model.safetensors"),
    ],
)
def test_every_fault_is_told_in_words(project, words, text):
    import re

    output = " ".join(said(*words, code=2).split())
    assert re.search(text, output.replace("│ ", "")), output
    assert "Traceback" not in output
    assert not (project / ".drtune").exists()


def test_without_a_store_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert "there is no tracking store" in said("runs", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("within", "code"), [(True, 0), (False, 1)])
def test_verify_ends_with_1_where_results_differ(project, monkeypatch, within, code):
    there = Restored(project / "there", "train", {}, ("metrics.json",), ("torch 2 (then 1)",))
    removed = []
    monkeypatch.setattr(cli_runs, "restored_at", lambda name, out: (RunStore(project).get(name), there))
    monkeypatch.setattr(verify, "wanted_outs", lambda *_: {"models": "1"})
    monkeypatch.setattr(verify, "repeat", lambda *_: {"models": "2"})
    monkeypatch.setattr(
        verify, "compare", lambda *_: [Compared("models/a", "1" * 32, "2" * 32, None, within)]
    )
    monkeypatch.setattr(restore, "forget", lambda root, folder: removed.append(folder))
    text = said("verify", "train dr_tune", code=code)
    assert "not in any cache, made anew by the command: metrics.json" in text
    assert "packages that differ now: torch 2 (then 1)" in text
    assert ("DIFFERS" in text) is not within
    assert removed == ([there.folder] if within else [])
    assert ("the worktree is kept" in text) is not within


def test_restore_goes_to_a_folder_of_its_own(project, monkeypatch):
    asked = []

    def made(store, run, target):
        asked.append(target)
        return Restored(target, "train", {}, (), ())

    monkeypatch.setattr(restore, "restore", made)
    text = said("restore", "train dr_tune")
    run = RunStore(project).get("train dr_tune").run_id
    said("restore", run[:6], "--out", "elsewhere")
    assert asked == [project / ".drtune/restored" / run[:8], Path.cwd() / "elsewhere"]
    assert f"run it again: cd {asked[0]} && dvc repro --force --single-item train" in text
