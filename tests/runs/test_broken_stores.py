"""What every command says of a store that is broken in some way: one sentence, exit code 2, never a trace."""

import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import sqlite3
import threading
from contextlib import closing

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML
from typer.testing import CliRunner

from drtune.cli.main import app
from drtune.runs import record
from drtune.runs.journal import journals_in, spare_folder
from drtune.runs.mlflow_run import stage_run
from drtune.runs.run_store import RunStore

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")
COMMANDS = ("sync", "runs", "restore make", "verify make", "model register digits")
NOTHING_IS_LOST = "nothing is lost: the journals in .drtune/journal keep the runs"


@pytest.fixture
def project(toy, tmp_path, monkeypatch):
    """A copy of the project, which is the current folder."""
    with closing(sqlite3.connect(toy.folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    folder = tmp_path / "copy"
    shutil.copytree(toy.folder, folder, symlinks=True)
    for name, value in toy.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    return folder


def call(words):
    return CliRunner().invoke(app, words.split())


def client(project):
    return MlflowClient(f"sqlite:///{project}/mlflow.db")


def execute(project, statement):
    with closing(sqlite3.connect(project / "mlflow.db")) as connection:
        connection.execute(statement)
        connection.commit()


def truncate(project):
    os.truncate(project / "mlflow.db", 300_000)


def scramble(project):
    (project / "mlflow.db").write_bytes(os.urandom(300_000))


def lock_up(project):
    """SQLite writes no file whose format it does not know; so it is read-only for root too."""
    content = bytearray((project / "mlflow.db").read_bytes())
    content[18] = 3
    (project / "mlflow.db").write_bytes(content)
    for journal in project.glob(".drtune/journal/*.jsonl"):  # there is something to write
        with journal.open("a") as stream:
            stream.write('{"kind": "tags", "time": 1, "values": {"late": "x"}}\n')


def age(project):
    execute(project, "update alembic_version set version_num = 'older'")


def drop(project):
    execute(project, "drop table experiments")


def delete_experiment(project):
    found = client(project).get_experiment_by_name("drtune/pipeline")
    client(project).delete_experiment(found.experiment_id)


BROKEN = {
    truncate: "database disk image is malformed; the file is damaged: move it away",
    scramble: "file is not a database; the file is damaged: move it away",
    age: "Detected out-of-date database schema [^.]*; copy the file, then `mlflow db upgrade sqlite:",
    drop: "no such (table|column).*; the file is damaged: move it away",
    delete_experiment: "experiment drtune/pipeline is deleted; bring it back with `mlflow experiments",
}


def is_one_sentence(done, words):
    """Whether a command said this on one line of its own and nothing else, and ended with 2."""
    (said,) = done.output.strip().splitlines()
    return done.exit_code == 2 and re.search(words, said) and isinstance(done.exception, SystemExit)


def doctor_says(done, level, about, words):
    lines = [line for line in done.output.splitlines() if line.startswith(f"{level:<5}  {about}")]
    return lines and re.search(words, lines[0]) and isinstance(done.exception, SystemExit | None)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_database_is_one_sentence(project, fault, command):
    fault(project)
    before = (project / "mlflow.db").read_bytes()
    done = call(command)
    assert is_one_sentence(done, BROKEN[fault]), done.output
    if fault is not delete_experiment:
        assert NOTHING_IS_LOST in done.output
        assert (project / "mlflow.db").read_bytes() == before, "what is left may be worth a rescue"


@pytest.mark.parametrize("fault", BROKEN)
def test_doctor_names_a_broken_database_with_the_remedy(project, fault):
    fault(project)
    before = (project / "mlflow.db").read_bytes()
    done = call("doctor")
    assert done.exit_code == 2
    assert (project / "mlflow.db").read_bytes() == before
    assert doctor_says(done, "FAULT", "store", BROKEN[fault].split(";")[0]), done.output
    assert BROKEN[fault].split("; ")[1].split(":")[0].split("`")[0] in done.output


def test_a_store_that_may_only_be_read_is_read(project):
    lock_up(project)
    assert is_one_sentence(call("sync"), "attempt to write a readonly database; get the right to write it")
    listed = call("runs")
    assert listed.exit_code == 0
    assert "make" in listed.output
    assert call("restore make --out there").exit_code == 0
    assert doctor_says(call("doctor"), "ok", "store", "answers")


class Broken(http.server.BaseHTTPRequestHandler):
    """Answers every request with 500."""

    def do_GET(self):
        self.send_error(500)

    do_POST = do_PATCH = do_GET  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.fixture
def broken_server(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cret@127.0.0.1:{server.server_port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_answers_500_is_one_sentence(project, broken_server, command):
    done = call(command)
    assert is_one_sentence(done, "http://127.0.0.1:.*500.*; start or mend the store, or change MLFLOW"), (
        done.output
    )
    assert NOTHING_IS_LOST in done.output
    assert "s3cret" not in done.output


def test_doctor_names_a_server_that_answers_500(project, broken_server):
    done = call("doctor")
    assert done.exit_code == 2
    assert doctor_says(done, "FAULT", "store", "http://127.0.0.1:.*500"), done.output


def whole(project):
    """What the store tells of the run: its status, metrics and whether it can be restored."""
    (run,) = RunStore(project).search("tags.`drtune.stage` = 'make'")
    assert "drtune.adopted" not in run.tags
    there = project / "there"
    assert call(f"restore {run.run_id} --out {there}").exit_code == 0
    shutil.rmtree(there)
    return run.status, run.metrics["first"], run.tags["drtune.stage_key"], run.tags["git.dirty"]


@pytest.mark.parametrize("left", ["", "-wal"])
def test_a_database_that_was_deleted_is_made_again_from_the_journals(toy, project, left):
    (run,) = toy.runs()  # MLflow keeps a database open that a process has used
    shown = run.status, run.metrics["first"], run.key, run.tags["git.dirty"]
    if left:  # of the deleted one: SQLite would read it into the new one
        shutil.copy(project / "mlflow.db", project / "mlflow.db-wal")
    (project / "mlflow.db").unlink()
    for command in ("runs", "restore make", "verify make"):
        assert is_one_sentence(call(command), "there is no tracking store; .*`drtune sync` from the journals")
    assert doctor_says(call("doctor"), "note", "store", "there is none yet")
    done = call("sync")
    assert (done.exit_code, done.output.splitlines()[0]) == (0, "journals: 2 shipped, 0 in use, 0 left")
    assert whole(project) == shown
    assert call("sync").output.splitlines()[0] == "journals: 0 shipped, 0 in use, 0 left"


def test_a_run_that_was_purged_is_made_again_and_one_that_was_deleted_is_named(project):
    (run,) = RunStore(project).search("tags.`drtune.stage` = 'make'")
    client(project).delete_run(run.run_id)
    for command in ("restore make", f"verify {run.run_id}"):
        words = (
            f"run .* is deleted in sqlite:.*; bring it back with `mlflow runs restore --run-id {run.run_id}`"
        )
        assert is_one_sentence(call(command), words)
    assert call("sync").output.splitlines()[0] == "journals: 0 shipped, 0 in use, 0 left", "it stays deleted"
    client(project)._tracking_client.store._hard_delete_run(run.run_id)  # what `mlflow gc` does
    assert is_one_sentence(
        call("restore make"), "no such run in .*; .*`drtune sync` brings those of the journals"
    )
    assert call("sync").output.splitlines()[0] == "journals: 1 shipped, 0 in use, 0 left"
    assert whole(project)[0] == "FINISHED"


def test_a_deleted_stage_of_the_lock_is_named_and_gets_no_stand_in(project):
    (run,) = RunStore(project).search("tags.`drtune.stage` = 'make'")
    entry = json.loads(
        next(project.glob(f".drtune/journal/{run.key[:16]}-*.files/provenance/stage.lock.json")).read_text()
    )
    YAML().dump({"schema": "2.0", "stages": {"make": entry}}, project / "dvc.lock")
    client(project).delete_run(run.run_id)
    done = call("sync")
    assert (
        f"make: its run {run.run_id[:8]} was deleted; bring it back with `mlflow runs restore" in done.output
    )
    assert "0 adopted from dvc.lock" in done.output


def test_a_deleted_folder_of_journals_takes_nothing_from_the_store(project):
    shutil.rmtree(project / ".drtune")
    assert call("sync").exit_code == 0
    assert whole(project)[0] == "FINISHED"
    assert doctor_says(call("doctor"), "ok", "journals", "all shipped")


def test_a_cache_that_lacks_a_part_is_one_sentence_and_leaves_nothing(project):
    numbers = hashlib.md5(b"[2, 3]", usedforsecurity=False).hexdigest()
    (project / ".dvc/cache/files/md5" / numbers[:2] / numbers[2:]).unlink()
    for command in ("restore make --out there", "verify make --out there"):
        words = "holds what the run read as data/raw; fetch it into the cache"
        assert is_one_sentence(call(command), words)
        assert not (project / "there").exists()


TORN = '{"kind": "run", "ti'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TORN, "its first line is torn, so no run can be made of its 0 whole lines; moved to"),
        (f'{TORN}\n{{"kind": "status", "time": 1, "status": "KILLED"}}\n', "of its 2 whole lines; moved to"),
        ("", "was empty, as a full disk or a kill leaves it, and is removed"),
    ],
)
def test_a_journal_without_a_first_line_is_told_once_and_put_aside(project, content, words):
    journal = project / ".drtune/journal/feedfeedfeedfeed-18ebc36bce32919b-2.jsonl"
    journal.write_text(content)
    assert doctor_says(call("doctor"), "FAULT", "journals", "1 torn")
    done = call("sync")
    assert (done.exit_code, journal.exists()) == (0, False)
    assert re.search(f"{journal.name}: .*{words}", done.output), done.output
    assert words not in call("sync").output
    assert doctor_says(call("doctor"), "ok", "journals", "all shipped")
    assert ("torn at their start" in call("gc --dry-run").output) is bool(content)
    call("gc")
    assert not (project / ".drtune/journal/torn").exists()


def test_a_journal_in_the_temporary_folder_is_shipped(project, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = project / ".drtune/journal"
    folder.rename(project / ".drtune/kept")
    folder.write_text("no folder")  # as where no inode is left
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with stage_run("drtune", "train", record.collect(project), None, root=project) as run:
        run.log_metrics({"loss": 1.0})
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert run.journal.path.parent == spare_folder(folder)
    folder.unlink()
    assert call("sync").output.splitlines()[0].startswith("journals: 1 shipped")
    assert [found.status for found in RunStore(project).search("tags.`drtune.stage` = 'train'")] == [
        "FINISHED"
    ]
    spare_folder(folder).chmod(0o777)
    assert run.journal.path not in journals_in(project), "others may write there"


def test_a_restore_that_is_stopped_leaves_nothing(project, monkeypatch):
    def stopped(*_):
        assert (project / ".there.half/toy_stage.py").exists(), "it is half made"
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("drtune.runs.restore.share_cache", stopped)
    before = signal.getsignal(signal.SIGTERM)
    done = call("restore make --out there")
    assert done.exit_code == 128 + signal.SIGTERM
    assert not list(project.glob("*there*"))
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
