"""A real `mlflow server` that is stopped, killed or hangs around a run; nothing is lost or stored twice."""

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

import drtune
from drtune.runs import mlflow_run, record
from drtune.runs.journal import Shipper, unsent
from drtune.runs.mlflow_run import stage_run
from drtune.runs.stage_key import StageIdentity
from drtune.runs.sync import sync

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")
PROJECT = str(Path(drtune.__file__).parents[1])
IDENTITY = StageIdentity("0123456789abcdef" * 4, {}, ())
SECRET = "v3ry-s3cret"
STEPS = 150
KILLED_BETWEEN_SEND_AND_ANSWER = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {project!r})
from drtune.runs import mlflow_run
from drtune.runs import record
send = mlflow_run.MlflowTarget.send
def send_and_die(self, entries):
    send(self, entries)
    if any(entry["kind"] == "metrics" for entry in entries):
        os.kill(os.getpid(), signal.SIGKILL)
mlflow_run.MlflowTarget.send = send_and_die
with mlflow_run.stage_run("toy", "train", record.collect(Path.cwd()), None, root=Path(sys.argv[1])) as run:
    for step in range({steps}):
        run.log_metrics({{"loss": step}}, step)
    time.sleep(120)
"""


class Server:
    """An MLflow server with a sqlite store, in a process group of its own."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.uri_with_password = f"http://me:{SECRET}@127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + 240
        while time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=10):
                return self
            time.sleep(0.1)
        raise TimeoutError("mlflow server did not start")

    def signal(self, signum):
        os.killpg(self.process.pid, signum)

    def kill(self):
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    @contextmanager
    def hanging(self):
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_database):
    """Not started: the first test begins without it."""
    made = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(empty_database, made.folder / "server.db")
    yield made
    made.kill()


@pytest.fixture
def root(tmp_path, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri_with_password)
    monkeypatch.setattr(mlflow_run, "Shipper", functools.partial(Shipper, every=0.05))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def open_run(root, git):
    git(root, "init", "-q")
    git(root, "commit", "-q", "--allow-empty", "-m", "first")
    git(root, "remote", "add", "origin", f"https://me:{SECRET}@example.org/x.git?token={SECRET}")
    return functools.partial(
        stage_run, "toy", "train", record.collect(root), IDENTITY, resume=True, root=root, suffix=root.name
    )


def stored(server, root):
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("toy/pipeline").experiment_id
    (run,) = client.search_runs([experiment], f"attributes.run_name LIKE 'train {root.name}%'")
    return client, run


def steps(server, root):
    client, run = stored(server, root)
    return run.info.status, [p.step for p in client.get_metric_history(run.info.run_id, "loss")]


def arrived(server, root, count):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(Exception):
            if len(steps(server, root)[1]) >= count:
                return
        time.sleep(0.1)
    raise TimeoutError


def work(run, first, last):
    """Log some steps; returns the seconds that it took."""
    before = time.monotonic()
    for step in range(first, last):
        run.log_metrics({"loss": float(step)}, step)
    return time.monotonic() - before


def test_stopped_from_the_start_and_synced_when_it_is_there(server, root, open_run, capfd):
    before = time.monotonic()
    with open_run() as run:
        assert work(run, 0, STEPS) < 5
        run.log_text("note", "note.txt")
    assert time.monotonic() - before < 30
    assert "not in a tracking store yet" in run.link
    server.start()
    done = sync(root, "toy", root / "dvc.lock")
    assert (done.shipped, done.left, done.ended) == ([run.journal.path], {}, [])
    assert steps(server, root) == ("FINISHED", list(range(STEPS)))
    client, found = stored(server, root)
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ["note.txt"]
    assert sync(root, "toy", root / "dvc.lock").shipped == []
    said = "".join(capfd.readouterr()) + run.link
    assert found.data.tags["git.remote"] == "https://example.org/x.git"
    kept = [
        path.read_bytes()
        for folder in (root, server.folder)
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.parts
    ]
    assert SECRET not in said
    assert not any(SECRET.encode() in content for content in kept)


def test_hanging_in_the_middle_and_at_the_end(server, root, open_run):
    with open_run() as run:
        work(run, 0, STEPS)
        arrived(server, root, STEPS)
        server.signal(signal.SIGSTOP)
        try:
            assert work(run, STEPS, 2 * STEPS) < 5
            before = time.monotonic()
            assert not run.close("FINISHED", mlflow_run.CLOSE_SECONDS)
            assert time.monotonic() - before < mlflow_run.CLOSE_SECONDS + 5
        finally:
            server.signal(signal.SIGCONT)
    run.shipper.join(60)
    run.journal.release()
    sync(root, "toy", root / "dvc.lock")
    assert steps(server, root) == ("FINISHED", list(range(2 * STEPS)))


def test_hanging_at_the_start(server, root, open_run):
    with server.hanging():
        before = time.monotonic()
        with open_run() as run:
            assert time.monotonic() - before < 20
            work(run, 0, 3)
            assert "not in a tracking store yet" in run.link
        assert time.monotonic() - before < 45
    run.shipper.join(60)
    sync(root, "toy", root / "dvc.lock")
    assert steps(server, root) == ("FINISHED", [0, 1, 2])


def test_killed_between_sending_and_the_answer(server, root):
    code = KILLED_BETWEEN_SEND_AND_ANSWER.format(project=PROJECT, steps=STEPS)
    done = subprocess.run([sys.executable, "-c", code, str(root)], check=False, timeout=240)
    assert done.returncode == -signal.SIGKILL
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("toy/pipeline").experiment_id
    (run,) = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    (journal,) = (root / ".drtune/journal").glob("*.jsonl")
    assert client.get_metric_history(run.info.run_id, "loss"), "the store took some"
    assert unsent(journal) > journal.read_text().count('"loss"'), "and this side does not know"
    assert sync(root, "toy", root / "dvc.lock").ended == [run.info.run_id]
    run = client.get_run(run.info.run_id)
    assert (run.info.status, run.data.tags["drtune.orphaned"]) == ("KILLED", "true")
    written = journal.read_text().count('"loss"')
    assert [p.step for p in client.get_metric_history(run.info.run_id, "loss")] == list(range(written))


def test_killed_in_the_middle_and_started_again(server, root, open_run):
    with open_run() as run:
        work(run, 0, STEPS)
        arrived(server, root, STEPS)
        server.kill()
        assert work(run, STEPS, 2 * STEPS) < 5
    server.start()
    done = sync(root, "toy", root / "dvc.lock")
    assert done.left == {}
    assert steps(server, root) == ("FINISHED", list(range(2 * STEPS)))
