import os
import subprocess
import time

import pytest

from drtune.base.errors import TrackingError
from drtune.runs import record
from drtune.runs.journal import Journal
from drtune.runs.run_store import RunStore, prepare_database
from drtune.runs.store import answer, is_refusal

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def opened(root):
    store = RunStore(root)
    return store, store.experiment("toy/pipeline")


def running(opened, tags):
    store, experiment = opened
    return store.client.create_run(experiment, tags=tags).info.run_id


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
    store, experiment = opened
    assert store.experiment("toy/pipeline") == experiment
    assert (
        store.client.get_experiment(experiment).artifact_location == (root / "mlruns/toy/pipeline").as_uri()
    )


def test_a_run_whose_process_is_gone_is_ended(opened, root):
    store, experiment = opened
    here = record.collect(root).tags()
    dead, alive = running(opened, gone()), running(opened, here)
    reborn = running(opened, here | {"proc.start": "1.00"})
    rebooted = running(opened, here | {"proc.boot": "another"})
    elsewhere = running(opened, gone() | {"proc.host": "elsewhere"})
    container = running(opened, gone() | {"proc.namespace": "pid:[1]"})
    unknown = running(opened, {})
    assert sorted(store.end_dead_runs(experiment)) == sorted([dead, reborn, rebooted])
    assert store.end_dead_runs(experiment) == []
    ended = store.client.get_run(dead)
    assert (ended.info.status, ended.data.tags["drtune.orphaned"]) == ("KILLED", "true")
    for run in (alive, elsewhere, container, unknown):
        assert store.client.get_run(run).info.status == "RUNNING"


def test_the_lock_of_its_journal_tells_before_its_process(opened, root):
    store, experiment = opened
    journal = Journal(root / ".drtune/journal/one.jsonl", {})
    run = running(opened, gone() | {"drtune.journal": "one", "proc.host": "elsewhere"})
    assert store.dead_runs(experiment) == {}
    journal.close()
    journal.release()
    os.utime(journal.path, (1000, 1000))
    assert store.dead_runs(experiment) == {run: 1_000_000}
    with journal.path.open("a") as stream:
        stream.write('{"kind": "status", "time": 1, "status": "FINISHED"}\n')
    assert store.dead_runs(experiment) == {}, "its true end is known and waits to be shipped"


def test_a_zombie_is_gone(opened, root):
    store, experiment = opened
    child = subprocess.Popen(["sleep", "60"])
    started = record.psutil.Process(child.pid).create_time()
    here = record.collect(root).tags() | {"proc.pid": str(child.pid), "proc.start": f"{started:.2f}"}
    run = running(opened, here)
    assert store.dead_runs(experiment) == {}
    child.kill()
    end = time.monotonic() + 10
    while not store.dead_runs(experiment) and time.monotonic() < end:
        time.sleep(0.05)
    assert list(store.dead_runs(experiment)) == [run]
    child.wait()


def test_a_refusal_is_known_and_told_without_credentials(root):
    with pytest.raises(TrackingError) as caught:
        RunStore(root).client.create_experiment("")
    assert is_refusal(caught.value)
    assert "nothing is lost" not in str(caught.value), "the store is sound"
    assert not is_refusal(ConnectionError())
    assert answer(ConnectionError("http://me:secret@host says no\nmore")) == "http://host says no"
