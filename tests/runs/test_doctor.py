import http.server
import shutil
import sqlite3
import threading
from collections import namedtuple
from contextlib import closing, suppress

import pytest
import torch

from drtune.runs import doctor, record, store
from drtune.runs.journal import Journal
from drtune.runs.lifecycle import exclusive
from drtune.runs.mlflow_run import stage_run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")


def found(look):
    """about -> (level, found, remedy)"""
    return {finding.about: (finding.level, finding.found, finding.remedy) for finding in look}


def test_everything_is_looked_at_and_nothing_changed(root, monkeypatch):
    monkeypatch.chdir(root)
    before = sorted(root.rglob("*"))
    findings = found(doctor.examine(root, root, "toy"))
    assert set(findings) >= {
        "packages",
        "device",
        "git",
        "dvc.lock",
        "store",
        "journals",
        "locks",
        "telemetry",
        "disk",
    }
    assert findings["packages"][0] == "ok"
    assert findings["git"] == (
        "FAULT",
        f"{root} is no git repository",
        "`git init` and commit, or `dvc` fails",
    )
    assert findings["dvc.lock"][0] == "note"
    assert findings["journals"] == ("ok", "all shipped; 0 in use", "")
    assert [path for path in sorted(root.rglob("*")) if not path.name.startswith("mlflow.db-")] == before


def test_a_gpu_that_lies_idle_is_a_fault(monkeypatch):
    monkeypatch.setattr(doctor, "cards", lambda: ["A card"])
    monkeypatch.setattr("drtune.base.device.trouble_with_cuda", lambda: "the driver is too old")
    assert found(doctor.device())["device"] == (
        "FAULT",
        "cpu, although there is a GPU (A card)",
        "the driver is too old",
    )
    monkeypatch.setattr(doctor, "cards", list)
    monkeypatch.setattr("drtune.base.device.pick_device", lambda choice: torch.device("cpu"))
    assert found(doctor.device())["device"] == ("ok", "cpu; train.precision auto is no", "")


def test_a_package_that_does_not_fit_is_named(monkeypatch):
    wanted = ["torch>=2", "nowhere>=1", "pytest<1", "ruff>=1000; extra == 'lint'"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: wanted)
    level, text, remedy = found(doctor.packages())["packages"]
    assert level == "FAULT"
    assert text.startswith("nowhere is missing; pytest is ")
    assert text.endswith("wanted <1")
    assert "make repro" in remedy


def test_a_commit_is_named(root, git):
    git(root, "init", "-q")
    assert found(doctor.version_control(root))["git"][0] == "FAULT"
    git(root, "commit", "-q", "--allow-empty", "-m", "first")
    assert found(doctor.version_control(root))["git"][:2] == (
        "ok",
        f"commit {git(root, 'rev-parse', '--short', 'HEAD').strip()}",
    )


def test_a_folder_that_dvc_cannot_copy_is_told(tmp_path):
    text = "`dvc exp run --temp` and `--queue` fail where a path holds # ? ü; all else works"
    remedy = "for these, move the project to a path of plain letters"
    assert found(doctor.place(tmp_path / "#1 ü?"))["folder"] == ("note", text, remedy)
    assert found(doctor.place(tmp_path / "a 50% 'b'")) == {}


def test_a_project_that_was_moved_finds_its_runs_files_again(root, tmp_path):
    with stage_run("toy", "train", record.collect(root), None, root=root) as run:
        assert run.shipper.first_round.wait(60)
    (root / "mlruns/toy/pipeline").mkdir(parents=True, exist_ok=True)
    there = root.rename(tmp_path / "there")
    looks = list(doctor.tracking_store(there, "toy"))
    assert f"came from {root}; its runs find their files here now" in [look.found for look in looks]
    assert "came from" not in str(list(doctor.tracking_store(there, "toy")))


@pytest.mark.parametrize(
    ("said", "level", "text"),
    [
        ("{}", "ok", "in step with code, settings and data"),
        ('{"benchmarks/dvc.yaml:table": []}', "ok", "in step with code, settings and data"),
        ('{"train": [{"changed deps": {}}], "evaluate": []}', "note", "not in step: train, evaluate"),
        ("ERROR: no repository", "FAULT", "`dvc status` fails"),
    ],
)
def test_whether_the_lock_is_in_step_is_what_dvc_says(root, monkeypatch, said, level, text):
    (root / "dvc.lock").touch()
    done = namedtuple("Done", "stdout")(said)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **kwargs: done)
    assert found(doctor.in_step(root))["dvc.lock"][:2] == (level, text)


def test_a_store_without_its_log_and_with_a_dead_run(root):
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    findings = found(doctor.tracking_store(root, "toy"))
    assert findings["write-ahead log"] == ("FAULT", "journal_mode is delete", "`drtune sync` sets it")
    with stage_run("toy", "train", record.collect(root), None, root=root) as run:
        assert run.shipper.first_round.wait(60)
        assert found(doctor.tracking_store(root, "toy"))["runs"][0] == "ok"
        run.journal.release()  # as the kernel does when it is killed
        level, text, remedy = found(doctor.tracking_store(root, "toy"))["runs"]
    assert (level, remedy) == ("FAULT", "`drtune sync` ends them")
    assert text.startswith("1 say RUNNING and are dead: ")


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("http://me:secret@127.0.0.1:9", "http://127.0.0.1:9: http://127.0.0.1:9/health does not answer"),
        ("sqlite:///none.db", "none.db: there is none yet"),
    ],
)
def test_a_store_that_is_away(root, monkeypatch, uri, text):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    level, said, remedy = found(doctor.tracking_store(root, "toy"))["store"]
    assert level == ("FAULT" if "http" in uri else "note")
    assert text in said
    assert "secret" not in said + remedy


def test_a_store_of_another_version(root, monkeypatch):
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute("update alembic_version set version_num = 'older'")
        connection.commit()
    level, _, remedy = found(doctor.tracking_store(root, "toy"))["store"]
    assert level == "FAULT"
    assert "mlflow db upgrade" in remedy


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.version.encode())

    def log_message(self, *args):
        pass


@pytest.mark.parametrize(("version", "level"), [("2.1.0", "note"), (None, "ok")])
def test_a_server_of_another_version(version, level):
    here = doctor.importlib.metadata.version("mlflow")
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as httpd:
        httpd.version = version or here
        thread = threading.Thread(target=httpd.handle_request)
        thread.start()
        finding = found(doctor.server_version(f"http://me:pw@127.0.0.1:{httpd.server_port}/"))[
            "store version"
        ]
        thread.join()
    assert finding[0] == level
    assert httpd.version in finding[1]


def test_journals_that_wait(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with suppress(SystemExit), stage_run("toy", "train", record.collect(root), None, root=root) as run:
        assert found(doctor.journals(root))["journals"] == ("ok", "all shipped; 1 in use", "")
    level, text, remedy = found(doctor.journals(root))["journals"]
    assert (level, text) == ("FAULT", "1 not shipped completely, 0 of killed processes")
    assert "drtune sync" in remedy
    lines = run.journal.path.read_bytes().splitlines(keepends=True)
    run.journal.path.write_bytes(b"".join(lines[:-1]))
    assert found(doctor.journals(root))["journals"][1] == "1 not shipped completely, 1 of killed processes"
    Journal(run.journal.path, {}).close()  # this process holds it now
    assert found(doctor.journals(root))["journals"][1] == "all shipped; 1 in use"


def test_locks_and_checkpoints(root):
    with exclusive(root / ".drtune/ckpt" / ("a" * 64)):
        (root / ".drtune/ckpt" / ("a" * 64) / "state.pt").touch()
        findings = found(doctor.locks(root))
        assert findings["locks"][1].startswith("held: aaaaaaaaaaaa by pid ")
        assert "checkpoints" not in findings
    findings = found(doctor.locks(root))
    assert findings["locks"][1] == "none held"
    assert findings["checkpoints"][:2] == ("note", "1 left by trainings that were stopped")


@pytest.mark.parametrize(("value", "level"), [("true", "ok"), ("false", "note")])
def test_telemetry(monkeypatch, value, level):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", value)
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    done = namedtuple("Done", "stdout")("false\n" if level == "ok" else "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **kwargs: done)
    monkeypatch.delenv("DVC_NO_ANALYTICS", raising=False)
    findings = found(doctor.telemetry())
    assert (findings["telemetry"][0], findings["analytics"][0]) == (level, level)


def test_telemetry_is_off_unless_asked_for(monkeypatch):
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    store.set_defaults()
    assert doctor.is_on("MLFLOW_DISABLE_TELEMETRY")


@pytest.mark.parametrize(("free", "level"), [(100e9, "ok"), (3e9, "note"), (0.5e9, "FAULT")])
def test_room_on_the_disk(root, monkeypatch, free, level):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    assert found(doctor.disk(root))["disk"][:2] == (level, f"{free / 1e9:.1f} GB free")
