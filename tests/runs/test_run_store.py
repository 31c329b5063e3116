from pathlib import Path

import pytest

from drtune.base.errors import TrackingError
from drtune.runs import run_store
from drtune.runs.run_store import RunStore

KEYS = {"train": "a" * 64, "evaluate": "b" * 64}


@pytest.fixture
def store(root):
    return RunStore(root)


@pytest.fixture
def make(store):
    """Make a run in the store as a stage would leave it."""
    experiment = store.client.create_experiment("drtune/pipeline", (store.root / "mlruns/x").as_uri())

    def run(stage="train", start=1, status="FINISHED", metrics=None, **tags):
        key = KEYS.get(stage, "")
        tags = {"drtune.stage": stage, "drtune.stage_key": key, "git.commit": "c" * 40, **tags}
        made = store.client.create_run(experiment, start, tags, f"{stage} dr_tune").info.run_id
        for name, value in (metrics or {}).items():
            store.client.log_metric(made, name, value)
        store.client.set_terminated(made, status)
        return made

    return run


def test_a_run_is_found_by_id_first_digits_or_name(store, make):
    first, second = make("train"), make("evaluate")
    assert store.get(first).run_id == first
    assert store.get(second[:12]).run_id == second
    assert store.get("evaluate dr_tune").run_id == second
    found = store.get(first)
    assert (found.stage, found.key, found.method, found.status) == ("train", "a" * 64, "dr_tune", "FINISHED")


def test_an_unknown_or_ambiguous_name_says_what_there_is(store, make):
    first, second = make(), make()
    with pytest.raises(TrackingError, match="run 'nope': no such run in sqlite:.*`drtune runs` lists"):
        store.get("nope")
    with pytest.raises(TrackingError, match="2 runs are called so: .*give more of the id") as fault:
        store.get("train dr_tune")
    assert first[:8] in str(fault.value)
    assert second[:8] in str(fault.value)


def test_a_store_that_is_not_there_is_not_made(tmp_path, monkeypatch):
    with pytest.raises(TrackingError, match="mlflow.db: there is no tracking store; 'dvc repro' makes it"):
        RunStore(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(
        TrackingError, match="does not answer.*start or mend the store, or change MLFLOW_TRACK"
    ) as fault:
        RunStore(tmp_path)
    assert "hunter2" not in str(fault.value)


def test_artifacts_are_fetched_or_absent(store, make, tmp_path):
    run = store.get(make())
    (tmp_path / "a.txt").write_text("a")
    store.client.log_artifact(run.run_id, str(tmp_path / "a.txt"))
    (tmp_path / "to").mkdir()
    assert store.fetch(run, "a.txt", tmp_path / "to").read_text() == "a"
    assert store.fetch(run, "model/MLmodel", tmp_path / "to") is None


def test_a_version_is_registered_and_aliased(store, make, tmp_path):
    run = store.get(make())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    store.client.log_artifact(run.run_id, str(tmp_path / "model"))
    assert [store.register("digits", run, "model", {"dvc.md5": "1"}, "champion") for _ in range(2)] == [
        "1",
        "2",
    ]
    version = store.client.get_model_version_by_alias("digits", "champion")
    assert (version.version, version.run_id, version.tags["dvc.md5"]) == (2, run.run_id, "1")
    assert Path(version.source.removeprefix("file://")).name == "model"
    with pytest.raises(TrackingError, match="sqlite:.*Names cannot contain"):
        store.register("a/b", run, "model", {}, "")


def test_search_gives_pages_newest_first(store, make, monkeypatch):
    monkeypatch.setattr(run_store, "PAGE", 2)
    made = [make(start=number) for number in range(1, 6)]
    assert [run.run_id for run in store.search()] == made[::-1]
    assert [run.run_id for run in store.search(limit=3)] == made[:1:-1]
    assert list(store.search("tags.`drtune.stage` = 'none'")) == []
    with pytest.raises(TrackingError, match="sqlite:.*Invalid"):
        list(store.search("nonsense filter"))
