import os
import subprocess
import time

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from drtune.runs import record
from drtune.runs.journal import Journal
from drtune.runs.mlflow_store import (
    connect,
    dead_runs,
    end_dead_runs,
    experiment_of,
    is_refusal,
    prepare_database,
    refused,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def opened(root):
    uri = f"sqlite:///{root}/mlflow.db"
    client = connect(uri, root)
    return client, experiment_of(client, uri, root, "toy/pipeline")


def running(opened, tags):
    client, experiment = opened
    return client.create_run(experiment, tags=tags).info.run_id


def gone():
    """Tags of a process of this machine that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    here = record.collect(record.Path.cwd()).tags()
    return {name: here[name] for name in here if name.startswith("proc.")} | {"proc.pid": str(child.pid)}


def test_a_database_that_was_cut_short_is_not_left_behind(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore.__init__", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare_database(tmp_path / "mlflow.db", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_is_made_once_and_keeps_its_files_in_the_root(opened, root):
    client, experiment = opened
    assert experiment_of(client, f"sqlite:///{root}/mlflow.db", root, "toy/pipeline") == experiment
    assert client.get_experiment(experiment).artifact_location == (root / "mlruns/toy/pipeline").as_uri()


def test_a_run_whose_process_is_gone_is_ended(opened, root):
    client, experiment = opened
    here = record.collect(root).tags()
    dead, alive = running(opened, gone()), running(opened, here)
    reborn = running(opened, here | {"proc.start": "1.00"})
    rebooted = running(opened, here | {"proc.boot": "another"})
    elsewhere = running(opened, gone() | {"proc.host": "elsewhere"})
    container = running(opened, gone() | {"proc.namespace": "pid:[1]"})
    unknown = running(opened, {})
    assert sorted(end_dead_runs(client, experiment, root)) == sorted([dead, reborn, rebooted])
    assert end_dead_runs(client, experiment, root) == []
    ended = client.get_run(dead)
    assert (ended.info.status, ended.data.tags["drtune.orphaned"]) == ("KILLED", "true")
    for run in (alive, elsewhere, container, unknown):
        assert client.get_run(run).info.status == "RUNNING"


def test_the_lock_of_its_journal_tells_before_its_process(opened, root):
    client, experiment = opened
    journal = Journal(root / "one.jsonl", {})
    run = running(opened, gone() | {"drtune.journal": "one", "proc.host": "elsewhere"})
    assert dead_runs(client, experiment, root) == {}
    journal.close()
    journal.release()
    os.utime(journal.path, (1000, 1000))
    assert dead_runs(client, experiment, root) == {run: 1_000_000}
    with journal.path.open("a") as stream:
        stream.write('{"kind": "status", "time": 1, "status": "FINISHED"}\n')
    assert dead_runs(client, experiment, root) == {}, "its true end is known and waits to be shipped"


def test_a_zombie_is_gone(opened, root):
    client, experiment = opened
    child = subprocess.Popen(["sleep", "60"])
    started = record.psutil.Process(child.pid).create_time()
    here = record.collect(root).tags() | {"proc.pid": str(child.pid), "proc.start": f"{started:.2f}"}
    run = running(opened, here)
    assert dead_runs(client, experiment, root) == {}
    child.kill()
    end = time.monotonic() + 10
    while not dead_runs(client, experiment, root) and time.monotonic() < end:
        time.sleep(0.05)
    assert list(dead_runs(client, experiment, root)) == [run]
    child.wait()


def test_a_refusal_is_known_and_told_without_credentials(root, caplog):
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    with pytest.raises(MlflowException) as caught:
        client.create_experiment("")
    assert is_refusal(caught.value)
    assert not is_refusal(ConnectionError())
    refused("x", ConnectionError("http://me:secret@host says no\nmore"))
    assert "refuses x: http://host says no" in caplog.text
    assert "more" not in caplog.text
