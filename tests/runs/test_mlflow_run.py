import functools
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

import drtune
from drtune.runs import mlflow_run, record, system_metrics
from drtune.runs.journal import Shipper, ship, write_offset
from drtune.runs.lifecycle import Stopped
from drtune.runs.mlflow_run import MlflowTarget, stage_run
from drtune.runs.stage_key import StageIdentity

# mlflow 3.17 meets SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")
KEY = "0123456789abcdef" * 4
IDENTITY = StageIdentity(KEY, {"data": "0" * 32 + ".dir"}, ("model",))
CHILD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {project!r})
from drtune.runs import mlflow_run
from drtune.runs import record
from drtune.runs.lifecycle import stopping
from drtune.runs.mlflow_run import stage_run
mlflow_run.CLOSE_SECONDS = mlflow_run.STOP_SECONDS = 120  # a busy machine
root = Path(os.environ["DVC_ROOT"])
started = time.monotonic()
with stopping(), stage_run("toy", sys.argv[1], record.collect(root), None) as run:
    for step in range(3):
        run.log_metrics({{"loss": step}}, step)
    run.log_params({{"store": os.environ.get("MLFLOW_TRACKING_URI", "")}})
    print(run.link, flush=True)
    {work}
print(time.monotonic() - started)
"""


@pytest.fixture
def made(tmp_path):
    return record.collect(tmp_path)


@pytest.fixture
def open_run(root, made):
    return functools.partial(stage_run, "toy", "train@l2", made, IDENTITY, root=root)


def runs_in(root, project="toy"):
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name(f"{project}/pipeline")
    return client, client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def history(client, run, name):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def child(root, stage, work="pass", **environment):
    code = CHILD.format(project=str(Path(drtune.__file__).parents[1]), work=work)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), stage],
        env={**os.environ, "DVC_ROOT": str(root), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_a_run_holds(open_run, root, tmp_path, caplog):
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"png")
    with open_run(suffix="seed 1") as run:
        run.log_params({"train": {"lr": 1e-05, "method": "dr_tune"}, **{f"p{i}": i for i in range(150)}})
        for step in range(1500):
            run.log_metrics({"loss": 1 / (step + 1)}, step)
        run.log_input("data/bank", "0" * 32 + ".dir", "training")
        run.log_artifact(plot, "reports")
        run.log_text("note", "provenance/note.txt")
        run.set_tags({"seed": 1})
    assert caplog.text == ""
    client, (stored,) = runs_in(root)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "train@l2 seed 1")
    assert stored.info.end_time >= stored.info.start_time
    assert len(stored.data.params) == 152
    assert stored.data.params["train.lr"] == "1e-05"
    assert history(client, stored, "loss") == [(step, 1 / (step + 1)) for step in range(1500)]
    tags = stored.data.tags
    assert (tags["drtune.stage_key"], tags["drtune.stage"], tags["seed"]) == (KEY, "train@l2", "1")
    assert tags["dvc.deps"] == '{"data": "%s.dir"}' % ("0" * 32)
    assert tags["proc.pid"] == str(os.getpid())
    (given,) = stored.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("data/bank", "0" * 32 + ".dir")
    assert {tag.key: tag.value for tag in given.tags}["dvc.path"] == "data/bank"
    files = Path(client.download_artifacts(stored.info.run_id, ""))
    assert (files / "reports/plot.png").read_bytes() == b"png"
    assert (files / "provenance/note.txt").read_text() == "note"
    assert files.is_relative_to(root / "mlruns")
    assert run.journal.files.exists(), "the store may be lost; `drtune gc` clears both"
    experiment = client.get_experiment(stored.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    page = f"#/experiments/{experiment.experiment_id}/runs/{stored.info.run_id}?workflowType=machine_learning"
    assert run.link == f"mlflow ui  then  http://127.0.0.1:5000/{page}"


def test_nan_is_stored_and_infinity_is_a_tag(open_run, root):
    with open_run() as run:
        run.log_metrics({"a": math.nan, "b": math.inf, "c": 1.0}, 2)
        run.log_metrics({"b": -math.inf}, 3)
    client, (stored,) = runs_in(root)
    ((step, value),) = history(client, stored, "a")
    assert step == 2
    assert math.isnan(value)
    assert history(client, stored, "c") == [(2, 1.0)]
    assert history(client, stored, "b") == []
    assert stored.data.tags["drtune.infinite.b"] == "inf at step 2"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (None, "FINISHED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(), "FINISHED"),
        (SystemExit("bad settings"), "FAILED"),
        (ValueError("broken"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Stopped(signal.SIGTERM), "KILLED"),
    ],
)
def test_the_status_is_how_the_work_ended(open_run, root, end, status):
    raised = None
    try:
        with open_run():
            if end is not None:
                raise end
    except BaseException as error:
        raised = error
    assert raised is end
    _, (stored,) = runs_in(root)
    assert stored.info.status == status


def test_first_uses_at_once_and_statuses_of_real_processes(tmp_path):
    ends = {
        "exit0": ("sys.exit(0)", None, 0, "FINISHED"),
        "exit3": ("sys.exit(3)", None, 3, "FAILED"),
        "raises": ("raise ValueError('broken')", None, 1, "FAILED"),
        "term": ("time.sleep(60)", signal.SIGTERM, 143, "KILLED"),
        "int": ("time.sleep(60)", signal.SIGINT, 130, "KILLED"),
    }
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(child(tmp_path, name, work)) for name, (work, *_) in ends.items()
        }
        for process in processes.values():
            stack.callback(process.kill)
        for name, process in processes.items():
            process.stdout.readline()  # the link: the work begins
            if ends[name][1]:
                process.send_signal(ends[name][1])
        for name, process in processes.items():
            _, errors = process.communicate(timeout=120)
            assert (name, process.returncode) == (name, ends[name][2]), errors
            assert "the journal keeps" not in errors
    client, stored = runs_in(tmp_path)
    assert {run.info.run_name: run.info.status for run in stored} == {n: end[3] for n, end in ends.items()}
    assert all(history(client, run, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)] for run in stored)
    assert client.get_experiment("0").artifact_location == (tmp_path / "mlruns/0").as_uri()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_store_that_is_away_neither_fails_nor_delays(tmp_path):
    process = child(tmp_path, "train", MLFLOW_TRACKING_URI="http://me:secret@127.0.0.1:9")
    output, errors = process.communicate(timeout=60)
    link, seconds = output.splitlines()
    assert process.returncode == 0
    assert float(seconds) < 5
    assert "not in a tracking store yet" in link
    assert errors.count("the work goes on, the journal keeps all") == 1
    (journal,) = (tmp_path / ".drtune/journal").glob("*.jsonl")
    text = journal.read_text()
    assert text.count('"loss"') == 3
    assert '"status": "FINISHED"' in text
    assert "secret" not in output + errors + text


def test_a_run_journalled_without_its_store_is_made_later(open_run, root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with open_run() as run:
        run.log_metrics({"loss": 1.0}, 7)
        run.log_text("note", "note.txt")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    ship(run.journal.path, MlflowTarget(root))
    client, (stored,) = runs_in(root)
    assert stored.info.status == "FINISHED"
    assert history(client, stored, "loss") == [(7, 1.0)]
    assert [file.path for file in client.list_artifacts(stored.info.run_id)] == ["note.txt"]


def test_shipping_twice_changes_nothing(open_run, root):
    with open_run() as run:
        run.log_params({"a": 1})
        run.log_metrics({"loss": 1.0, "nan": math.nan}, 0)
        run.log_metrics({"loss": 2.0}, 1)
        run.log_input("data/bank", "0" * 32, "training")
    client, (before,) = runs_in(root)
    write_offset(run.journal.path, 0)
    ship(run.journal.path, MlflowTarget(root))
    client, (after,) = runs_in(root)
    assert history(client, after, "loss") == [(0, 1.0), (1, 2.0)]
    assert len(client.get_metric_history(after.info.run_id, "nan")) == 1
    assert after.info.status == "FINISHED"
    assert after.data.tags == before.data.tags
    assert len(after.inputs.dataset_inputs) == 1


def killed(open_run, steps):
    with suppress(KeyboardInterrupt), open_run(resume=True) as run:
        run.log_params({"lr": 0.1})
        for step in steps:
            run.log_metrics({"loss": float(step)}, step)
        raise KeyboardInterrupt
    return run


def test_a_killed_run_is_continued_without_doubled_steps(open_run, root):
    killed(open_run, range(5))
    with open_run(resume=True) as run:
        assert run.shipper.first_round.wait(60)
        assert runs_in(root)[1][0].info.status == "RUNNING"
        run.log_params({"lr": 0.1})
        for step in range(3, 8):
            run.log_metrics({"loss": float(step)}, step)
    client, (stored,) = runs_in(root)
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["drtune.resumed"] == "1"
    assert history(client, stored, "loss") == [(step, float(step)) for step in range(8)]
    with open_run(resume=True):
        pass
    assert len(runs_in(root)[1]) == 2  # a finished run is not continued


def test_without_resume_a_new_run_is_made(open_run, root):
    killed(open_run, [0])
    with open_run():
        pass
    assert [run.info.status for run in runs_in(root)[1]] == ["KILLED", "FINISHED"]


def test_lines_that_a_kill_left_unshipped_are_shipped_by_the_next_attempt(open_run, root):
    run = killed(open_run, range(3))
    with run.journal.path.open("a") as stream:
        stream.write('{"kind": "metrics", "time": 1, "step": 3, "values": {"loss": 3.0}}\n')
    with open_run(resume=True) as run:
        run.log_metrics({"loss": 3.0}, 3)
        run.log_metrics({"loss": 4.0}, 4)
    client, (stored,) = runs_in(root)
    assert sorted(history(client, stored, "loss")) == [(step, float(step)) for step in range(5)]


def test_a_run_without_its_journal_is_found_by_its_key(open_run, root, caplog):
    killed(open_run, [0])
    shutil.rmtree(root / ".drtune")
    with open_run(resume=True) as run:
        run.log_params({"lr": 0.2, "new": 1})
    _, (stored,) = runs_in(root)
    assert (stored.info.status, stored.data.tags["drtune.resumed"]) == ("FINISHED", "1")
    assert stored.data.params == {"lr": "0.1", "new": "1"}
    assert "tracking store: refuses lr" in caplog.text


def test_a_training_that_lost_its_folder_begins_anew_without_doubling_its_history(open_run, root):
    killed(open_run, range(5))
    shutil.rmtree(root / ".drtune")
    with open_run(resume=True) as run:
        for step in range(8):
            run.log_metrics({"loss": float(step), "new": 1.0}, step)
    client, (stored,) = runs_in(root)
    assert history(client, stored, "loss") == [(step, float(step)) for step in range(8)]
    assert history(client, stored, "new") == [(step, 1.0) for step in range(8)]


def test_an_answer_that_was_lost_doubles_nothing_whatever_the_store_compares(open_run, root, monkeypatch):
    taken = MlflowClient.log_batch

    def loses_its_first_answer(self, run_id, **kinds):
        taken(self, run_id, **kinds)
        if kinds.get("metrics"):
            monkeypatch.undo()
            raise TimeoutError

    with open_run() as run:
        monkeypatch.setattr(MlflowClient, "log_batch", loses_its_first_answer)
        for step in range(5):
            run.log_metrics({"loss": float(step)}, step)
        run.shipper.close(30)
        text = run.journal.path.read_text()
        run.journal.path.write_text(re.sub(r'"time": (\d+), "step"', '"time": 7, "step"', text))
    write_offset(run.journal.path, 0)
    ship(run.journal.path, MlflowTarget(root))
    client, (stored,) = runs_in(root)
    assert history(client, stored, "loss") == [(step, float(step)) for step in range(5)]


def test_a_run_that_lives_on_another_host_is_left_alone(open_run, root):
    run = killed(open_run, [0])
    client, (stored,) = runs_in(root)
    client.update_run(stored.info.run_id, status="RUNNING")
    client.set_tag(stored.info.run_id, "proc.host", "elsewhere")
    run.journal.path.unlink()
    with open_run(resume=True):
        pass
    assert [run.info.status for run in runs_in(root)[1]] == ["RUNNING", "FINISHED"]


def test_an_artifact_that_the_store_refuses_stops_nothing_else(open_run, root, monkeypatch, caplog):
    def refuse(self, run_id, path, folder=None):
        raise OSError("bucket not found at http://me:secret@host")

    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
    with open_run() as run:
        run.log_text("x", "x.txt")
        run.log_metrics({"loss": 1.0})
    client, (stored,) = runs_in(root)
    assert stored.info.status == "FINISHED"
    assert history(client, stored, "loss") == [(0, 1.0)]
    assert "x.txt: bucket not found at http://host" in caplog.text


def test_an_artifact_waits_for_room_on_the_disk(open_run, root, monkeypatch, caplog):
    def full(self, run_id, path, folder=None):
        raise OSError(28, "No space left on device", path)

    with monkeypatch.context() as patch, open_run() as run:
        patch.setattr(MlflowClient, "log_artifact", full)
        run.log_text("x", "x.txt")
        assert not run.close("FINISHED", 30), "a full disk is no refusal"
    assert "refuses" not in caplog.text
    assert "Traceback" not in caplog.text
    run.journal.release()
    ship(run.journal.path, MlflowTarget(root))
    client, (stored,) = runs_in(root)
    assert [file.path for file in client.list_artifacts(stored.info.run_id)] == ["x.txt"]


def test_a_deleted_experiment_is_named_with_the_remedy(open_run, root, caplog):
    with open_run():
        pass
    client, (stored,) = runs_in(root)
    client.delete_experiment(stored.info.experiment_id)
    with open_run() as run:
        pass
    assert (
        "experiment toy/pipeline is deleted; bring it back with `mlflow experiments restore -x" in caplog.text
    )
    assert "journal" in run.link


def test_a_file_that_is_no_database_stops_nothing(tmp_path, made, caplog):
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    with stage_run("toy", "train", made, None, root=tmp_path):
        pass
    assert "the work goes on" in caplog.text
    assert "file is not a database" in caplog.text


def test_system_metrics_are_logged_on_request(open_run, root, monkeypatch):
    monkeypatch.setattr(system_metrics, "EVERY_SECONDS", 0.05)
    with open_run(system_metrics=True):
        time.sleep(0.3)
    client, (stored,) = runs_in(root)
    assert [step for step, _ in history(client, stored, "system/cpu_utilization_percentage")][:2] == [0, 1]


def test_metrics_reach_the_store_while_work_goes_on(open_run, root, monkeypatch):
    monkeypatch.setattr(mlflow_run, "Shipper", functools.partial(Shipper, every=0.05))
    with open_run() as run:
        assert run.shipper.first_round.wait(60)
        run.log_metrics({"loss": 1.0})
        end = time.monotonic() + 20
        client, (stored,) = runs_in(root)
        while not history(client, stored, "loss") and time.monotonic() < end:
            time.sleep(0.05)
        assert history(client, stored, "loss") == [(0, 1.0)]
        assert stored.info.status == "RUNNING"
