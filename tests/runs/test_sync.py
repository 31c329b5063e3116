import json
import shutil
from contextlib import suppress

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from drtune.base.errors import ConfigError, TrackingError
from drtune.runs import record
from drtune.runs.garbage import collect_garbage
from drtune.runs.journal import Journal, entries_of, journals_in
from drtune.runs.lifecycle import release
from drtune.runs.mlflow_run import stage_run
from drtune.runs.stage_key import StageIdentity, stage_key
from drtune.runs.sync import sync

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")
DATA = {
    "cmd": "download",
    "deps": [{"path": "images", "md5": "1.dir"}, {"path": "pipeline/a.py", "md5": "2"}],
    "params": {"params.yaml": {"data": {"shots": 5, "seed": 1e-05}}},
    "outs": [{"path": "data", "md5": "d.dir"}],
}
TRAIN = {
    "cmd": "train",
    "deps": [{"path": "data", "md5": "d.dir"}],
    "params": {"params.yaml": {"train": {"lr": 0.1}, "methods.dr_tune": {"weight": 0.5}}},
    "outs": [{"path": "models", "md5": "m.dir"}],
}
EVALUATE = {
    "cmd": "evaluate",
    "deps": [{"path": "models", "md5": "m.dir"}],
    "outs": [{"path": "reports", "md5": "r.dir"}, {"path": "metrics/test.json", "md5": "x"}],
}


@pytest.fixture
def lock(root):
    """What a fresh clone has after `dvc pull`: a lock and outs, no runs."""
    stages = {"download": DATA, "train": TRAIN, "evaluate": EVALUATE}
    YAML().dump({"schema": "2.0", "stages": stages}, root / "dvc.lock")
    (root / "models").mkdir()
    history = [{"epoch": epoch, "val_accuracy": epoch / 10} for epoch in range(3)]
    (root / "models/history.json").write_text(json.dumps(history))
    (root / "metrics").mkdir()
    (root / "metrics/test.json").write_text('{"test": {"accuracy": 0.75}}')
    return root / "dvc.lock"


def runs(root):
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("toy/pipeline").experiment_id
    found = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
    return client, {run.data.tags.get("drtune.stage", "pipeline"): run for run in found}


def test_cached_stages_of_a_fresh_clone_are_adopted_once(root, lock, git):
    git(root, "init", "-q")
    git(root, "remote", "add", "origin", "https://me:s3cret@example.org/x.git")
    git(root, "add", "dvc.lock")
    git(root, "commit", "-q", "-m", "results")
    done = sync(root, "toy", lock)
    assert done.adopted == ["download", "train", "evaluate"]
    client, found = runs(root)
    assert list(found).count("train") == 1
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    train, pipeline = found["train"], found["pipeline"]
    assert train.data.tags["drtune.stage_key"] == stage_key(TRAIN)
    assert train.data.tags["drtune.adopted"] == "true"
    assert train.data.params == {"train.lr": "0.1", "methods.dr_tune.weight": "0.5"}
    points = client.get_metric_history(train.info.run_id, "val_accuracy")
    assert [(point.step, point.value) for point in points] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert found["evaluate"].data.metrics == {"test.accuracy": 0.75}
    assert found["download"].data.params == {"data.shots": "5", "data.seed": "1e-05"}
    (given,) = found["download"].inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("images", "1.dir")
    for stage in ("download", "train", "evaluate"):
        assert found[stage].data.tags["mlflow.parentRunId"] == pipeline.info.run_id
    assert pipeline.data.tags["git.remote"] == "https://example.org/x.git"
    assert b"s3cret" not in (root / "mlflow.db").read_bytes()
    assert pipeline.data.metrics == {"test.accuracy": 0.75}
    commit = git(root, "rev-parse", "HEAD").strip()
    assert pipeline.data.tags["drtune.lock_commit"] == train.data.tags["git.commit"] == commit
    files = {file.path for file in client.list_artifacts(pipeline.info.run_id, "provenance")}
    assert files == {"provenance/dvc.lock"}
    assert pipeline.info.run_id in done.link
    assert done.link.endswith("?workflowType=machine_learning")

    again = sync(root, "toy", lock)
    assert (again.adopted, again.shipped, again.link) == ([], [], done.link)
    assert len(runs(root)[1]) == 4
    assert len(client.search_runs([pipeline.info.experiment_id])) == 4


def test_a_stage_that_ran_here_is_shown_not_adopted(root, lock):
    identity = StageIdentity(stage_key(TRAIN), {}, ("models",))
    with stage_run("toy", "train", record.collect(root), identity, root=root):
        pass
    assert sync(root, "toy", lock).adopted == ["download", "evaluate"]
    _, found = runs(root)
    assert found["pipeline"].data.tags["drtune.run.train"] == found["train"].info.run_id
    assert "drtune.adopted" not in found["train"].data.tags


def test_a_killed_stage_is_shipped_and_ended_where_it_stopped(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with suppress(KeyboardInterrupt), stage_run("toy", "train", record.collect(root), None, root=root) as run:
        for step in range(5):
            run.log_metrics({"loss": step}, step)
        raise KeyboardInterrupt
    lines = run.journal.path.read_bytes().splitlines(keepends=True)
    run.journal.path.write_bytes(b"".join(lines[:-1]) + b'{"kind": "metr')  # SIGKILL in the middle of a line
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    done = sync(root, "toy", root / "dvc.lock")
    assert (done.shipped, done.left, done.link) == ([run.journal.path], {}, "")
    client, found = runs(root)
    train = found["train"]
    assert done.ended == [train.info.run_id]
    assert (train.info.status, train.data.tags["drtune.orphaned"]) == ("KILLED", "true")
    last = [entry["time"] for entry in entries_of(run.journal.path) if entry["kind"] == "metrics"][-1]
    assert train.info.end_time == last
    assert [point.step for point in client.get_metric_history(train.info.run_id, "loss")] == list(range(5))
    assert sync(root, "toy", root / "dvc.lock").shipped == []


def test_the_journal_of_a_living_process_is_left_alone(root):
    journal = Journal(root / ".drtune/journal/k-1-1.jsonl", {"project": "toy"})
    before = journal.path.read_bytes()
    done = sync(root, "toy", root / "dvc.lock")
    assert (done.busy, done.shipped) == ([journal.path], [])
    assert journal.path.read_bytes() == before
    release(journal._lock)
    journal.close()


def test_a_journal_that_cannot_be_shipped_does_not_stop_the_others(root):
    folder = root / ".drtune/journal"
    folder.mkdir(parents=True)
    (folder / "bad-1-1.jsonl").write_text('{"kind": "run", "time": 1}\n')
    with suppress(SystemExit), stage_run("toy", "train", record.collect(root), None, root=root) as run:
        pass
    run.journal.path.with_suffix(".off").unlink()
    done = sync(root, "toy", root / "dvc.lock")
    assert done.shipped == [run.journal.path]
    assert done.left == {folder / "bad-1-1.jsonl": "KeyError: 'project'"}


def test_a_store_that_is_away_is_told_with_the_remedy(root, lock, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(
        TrackingError, match=r"does not answer.*start or mend the store.*nothing is lost"
    ) as caught:
        sync(root, "toy", lock)
    assert "secret" not in str(caught.value)
    assert not (root / ".drtune/journal").exists()


def test_journals_come_in_the_order_of_their_begin(root):
    folder = root / ".drtune/journal"
    folder.mkdir(parents=True)
    for name in ("b-01-7", "a-02-3", "c-01-9"):
        (folder / f"{name}.jsonl").touch()
    assert [path.stem for path in journals_in(root)] == ["b-01-7", "c-01-9", "a-02-3"]
    shutil.rmtree(folder)
    assert journals_in(root) == []


HEAD = {"kind": "run", "time": 1, "project": "toy", "name": "x", "stage": "x", "stage_key": "", "stages": {}}
ODD = (
    {"kind": "artifact", "folder": "", "name": "../../../prey"},
    {"kind": "artifact", "folder": "/etc", "name": "hostname"},
    {"kind": "status"},
    {"kind": "tags", "values": None},
    {"kind": "metrics", "step": 1, "values": {"a": 10**400}},
)


@pytest.mark.parametrize("line", [*map(json.dumps, ODD), "[" * 100_000, "null", "\xff"])
def test_an_odd_journal_stops_nothing_and_takes_no_file_from_elsewhere(root, line):
    (root / "prey").write_text("s3cret")
    journal = root / ".drtune/journal/x-1-1.jsonl"
    journal.parent.mkdir(parents=True)
    head = HEAD | {"tags": {}, "resume": False}
    journal.write_text(f"{json.dumps(head)}\n{line}\n")
    done = sync(root, "toy", root / "dvc.lock")
    assert [*done.shipped, *done.left] == [journal]
    collect_garbage(root, dry_run=True)
    assert not [path for path in root.glob("mlruns/**/*") if path.name in ("prey", "hostname")]


@pytest.mark.parametrize(
    "history", ["{}", "[1]", '[{"epoch": "x"}]', '[{"epoch": 1e30}]', '[{"epoch": Infinity}]', "[[]]"]
)
def test_odd_numbers_of_cached_stages_are_passed_over(root, lock, history):
    (root / "models/history.json").write_text(history)
    (root / "metrics/test.json").write_text('{"a": 1, "b": NaN, "c": 1e999, "d": 1' + "0" * 400 + "}")
    assert len(sync(root, "toy", lock).adopted) == 3
    assert runs(root)[1]["evaluate"].data.metrics["a"] == 1


@pytest.mark.parametrize("stages", ["[]", "{a: b}", "{a: {outs: 3}}", "{a: {deps: [{path: 1}]}}", ""])
def test_a_lock_file_that_is_none_is_told_with_the_remedy(root, stages):
    (root / "dvc.lock").write_text(f"stages: {stages}\n")
    with pytest.raises(ConfigError, match="is no lock file as DVC writes it; `git checkout`"):
        sync(root, "toy", root / "dvc.lock")


@pytest.mark.parametrize("run", ["gone", "../x", ""])
def test_a_pipeline_run_that_names_a_run_that_is_gone_stops_nothing(root, lock, run):
    sync(root, "toy", lock)
    client, made = runs(root)
    client.set_tag(made["pipeline"].info.run_id, "drtune.run.other", run)
    client.update_run(made["pipeline"].info.run_id, status="RUNNING")
    sync(root, "toy", lock)
    assert runs(root)[1]["pipeline"].info.status == "FINISHED"
