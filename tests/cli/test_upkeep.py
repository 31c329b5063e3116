import pytest
from typer.testing import CliRunner

from drtune.cli.main import app
from drtune.runs import record
from drtune.runs.mlflow_run import stage_run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def call(tmp_path, empty_database, monkeypatch):
    """Run `drtune ...` in an empty project."""
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments):
        return CliRunner().invoke(app, list(arguments))

    return run


def test_sync_says_what_it_did(call, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with stage_run("drtune", "train", record.collect(tmp_path), None):
        pass
    away = call("sync")
    assert away.exit_code == 2
    assert (
        "start or mend the store, or change MLFLOW_TRACKING_URI, then `drtune sync`; nothing is lost"
        in away.output
    )
    assert "secret" not in away.output
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    done = call("sync")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "journals: 1 shipped, 0 in use, 0 left",
        "runs: 0 dead ones ended, 0 adopted from dvc.lock",
    ]
    (tmp_path / ".drtune/journal/bad-1-1.jsonl").write_text('{"kind": "run", "time": 1}\n')
    failed = call("sync")
    assert failed.exit_code == 1
    assert "bad-1-1.jsonl: KeyError" in failed.output


def test_doctor_exits_with_1_where_something_is_at_fault(call):
    done = call("doctor")
    assert done.exit_code == 1
    lines = done.output.splitlines()
    fault = next(i for i, line in enumerate(lines) if line.startswith("FAULT  git "))
    assert lines[fault + 1].strip() == "`git init` and commit, or `dvc` fails"
    assert any(line.startswith("ok     store") for line in lines)


def test_gc_says_what_it_frees(call, tmp_path):
    folder = tmp_path / ".drtune/ckpt" / ("a" * 64)
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    kept = tmp_path / ".drtune/downloads"
    kept.mkdir()
    (kept / "set.tar").write_bytes(b"x" * 2_000_000)
    dry = call("gc", "--dry-run")
    assert "would go        0.0 MB" in dry.output
    assert "kept            2.0 MB" in dry.output
    assert folder.exists()
    assert dry.output.splitlines()[-1] == "would free 0.0 MB"
    assert call("gc").output.splitlines()[-1] == "freed 0.0 MB"
    assert not folder.exists()
