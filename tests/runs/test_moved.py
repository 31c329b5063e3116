"""A project that is moved or copied keeps its runs, their files and its caches."""

import shutil
import sqlite3
from contextlib import closing

import pytest
from mlflow import MlflowClient

from drtune.runs import moved, store
from drtune.runs.restore import forget, restore
from drtune.runs.run_store import RunStore

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")


def filed(root):
    """A run of the store in `root` that holds a file, and a registered model of it."""
    made = RunStore(root, make=True)
    client, run = made.client, made.client.create_run(made.experiment("toy/pipeline")).info
    client.log_text(run.run_id, "held", "a b/#1.txt")
    client.create_registered_model("m")
    client.create_model_version("m", f"{run.artifact_uri}/a b", run.run_id)
    return run.run_id


def addresses(root):
    """Every address in the store."""
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        return [
            address
            for table, column in moved.ADDRESSES
            for (address,) in connection.execute(f"SELECT {column} FROM {table}")
        ]


@pytest.mark.parametrize("way", [shutil.move, shutil.copytree])
def test_a_store_finds_its_files_where_it_is_now(root, tmp_path, way, caplog):
    run, there = filed(root), tmp_path / "what? 50%41" / "mlruns" / "ñ#"
    there.parent.mkdir(parents=True)
    way(root, there)
    client = RunStore(there, make=True).client
    assert f"the project was at {root}: its runs find their files in {there} now" in caplog.text
    assert client.list_artifacts(run, "a b")[0].path == "a b/#1.txt"
    assert client.get_model_version_download_uri("m", "1").startswith(there.as_uri())
    experiment = client.get_run(run).info.experiment_id
    client.log_text(client.create_run(experiment).info.run_id, "new", "new.txt")
    assert client.get_experiment(experiment).artifact_location == (there / "mlruns/toy/pipeline").as_uri()
    assert len(list(tmp_path.rglob("new.txt"))) == len(list(there.rglob("new.txt"))) == 1
    assert not any((address or "").startswith(f"{root.as_uri()}/mlruns/toy") for address in addresses(there))
    assert moved.follow(there / "mlflow.db", there) == [], "once"


def test_plain_paths_as_mlflow_itself_writes_them(root, tmp_path):
    shutil.rmtree(root)
    root.mkdir()
    client = MlflowClient(store.store_uri(root))
    experiment = client.create_experiment("theirs", str(root / "mlruns/1"))
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "held", "a.txt")
    there = root.rename(tmp_path / "there")
    assert RunStore(there).client.list_artifacts(run)[0].path == "a.txt"
    assert str(there / "mlruns/1") in addresses(there)


def test_files_that_lie_elsewhere_on_purpose_stay_there(root, tmp_path):
    run, shared = filed(root), tmp_path / "disk"
    (root / "mlruns").rename(shared)
    with closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
        for table, column in moved.ADDRESSES[:2]:
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (f"{root.as_uri()}/mlruns", f"{tmp_path.as_uri()}/disk/mlruns"),
            )
    before = addresses(root)
    assert moved.follow(root / "mlflow.db", root) == []
    assert moved.follow(root / "mlflow.db", tmp_path) == [], "a store for several projects"
    assert addresses(root) == before
    assert run


def test_a_store_that_cannot_be_read_is_left_for_mlflow_to_tell(tmp_path):
    assert moved.follow(tmp_path / "mlflow.db", tmp_path) == []
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    assert moved.follow(tmp_path / "mlflow.db", tmp_path) == []


def test_a_run_is_restored_in_a_copy_from_the_copy_s_own_cache(toy, tmp_path):
    there = tmp_path / "ä copy? 100%"
    shutil.copytree(toy.folder, there, symlinks=True)
    opened = RunStore(there)
    (run,) = opened.search("tags.`drtune.stage` = 'make'")
    (there / "out/result.json").unlink(missing_ok=True)
    restored = restore(opened, run, tmp_path / "restored")
    assert (restored.folder / "out/result.json").is_file()
    assert str(there / ".dvc/cache") in (restored.folder / ".dvc/config.local").read_text(encoding="utf-8")
    forget(there, restored.folder)
