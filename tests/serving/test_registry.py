import json
import shutil

import pytest

from drtune.base.errors import TrackingError
from drtune.runs.holdings import write_pointer
from drtune.runs.outs import describe_out, folder_listing
from drtune.runs.run_store import RunStore
from drtune.serving.registry import COPY, materialize_to, register_pointer


@pytest.fixture
def project(tmp_path, empty_database, model_folder, monkeypatch):
    """A project whose DVC cache and workspace hold a model, in the workspace under a name of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "project"
    held = root / ".dvc/cache/files/md5"
    held.mkdir(parents=True)
    shutil.copy(empty_database, root / "mlflow.db")
    shutil.copytree(model_folder, root / "kept")
    (root / "requirements.lock").write_text("timm==1.2.3\n")
    out, listing = describe_out(model_folder), folder_listing(model_folder)
    for md5, data in [
        (out["md5"], json.dumps(listing, sort_keys=True).encode()),
        *((part["md5"], (model_folder / part["relpath"]).read_bytes()) for part in listing),
    ]:
        (held / md5[:2]).mkdir(exist_ok=True)
        (held / md5[:2] / md5[2:]).write_bytes(data)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def store(project):
    return RunStore(project)


@pytest.fixture
def training(store, project, model_folder, tmp_path):
    """Id of a finished training that holds a pointer; an unfinished, newer one holds none."""
    experiment = store.client.create_experiment("drtune/pipeline", (project / "mlruns").as_uri())
    out = describe_out(model_folder)
    tags = {"drtune.stage": "train", "drtune.stage_key": "a" * 64}
    outs = {"dvc.outs": json.dumps({"models": out["md5"]})}
    made, broken = (
        store.client.create_run(experiment, start, {**tags, **more}, f"train {name}").info.run_id
        for start, name, more in ((1, "good", outs), (2, "broken", {}))
    )
    write_pointer(tmp_path / "model", {"path": "models", **out, "root": str(project)})
    store.client.log_artifact(made, str(tmp_path / "model"))
    store.client.set_terminated(made)
    store.client.set_terminated(broken, "FAILED")
    return made


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # on importing mlflow.pyfunc
def test_a_pointer_is_registered_aliased_and_loads(store, training, pictures, model_folder, monkeypatch):
    import mlflow
    import pandas

    from drtune.serving.pyfunc import ImageClassifier

    said = register_pointer(store, "digits", "", "champion")
    assert said == "digits: version 1; load it with mlflow.pyfunc.load_model('models:/digits@champion')"
    version = store.client.get_model_version_by_alias("digits", "champion")
    assert version.run_id == training
    assert version.tags["dvc.md5"] == describe_out(model_folder)["md5"]
    assert register_pointer(store, "digits", training, "").endswith("'models:/digits/2')")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    model = mlflow.pyfunc.load_model("models:/digits@champion", model_config={"device": "cpu"})
    table = model.predict(pandas.DataFrame({"image": pictures}))
    expected = ImageClassifier(model_folder, "cpu").probabilities(pictures).max(1).values.tolist()
    assert table.probability.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_run_or_a_folder_is_materialized_into_a_folder(store, training, project, tmp_path):
    for which, name in ((training, "of run"), ("kept", "of folder")):
        said = materialize_to(lambda: store, which, tmp_path / name, "", "")
        assert f"mlflow models predict -m {tmp_path / name} --env-manager local" in said
        assert (tmp_path / name / "MLmodel").is_file()
        assert "timm==1.2.3" in (tmp_path / name / "requirements.txt").read_text()
    unopened = []
    materialize_to(lambda: unopened.append(1), "kept", tmp_path / "third", "", "")
    assert unopened == [], "a folder needs no store"


def test_a_copy_is_registered_with_the_run_that_made_the_model(store, training, project):
    said = materialize_to(lambda: store, "kept", None, "digits", "served")
    assert "models:/digits@served" in said
    version = store.client.get_model_version_by_alias("digits", "served")
    assert (version.run_id, version.tags["drtune.kind"]) == (training, COPY)
    kept = [file.path for file in store.client.list_artifacts(training, COPY)]
    assert f"{COPY}/MLmodel" in kept
    (project / "kept/model.json").write_text((project / "kept/model.json").read_text() + "\n")
    with pytest.raises(TrackingError, match="kept: no run of this store made this model; use --out instead"):
        materialize_to(lambda: store, "kept", None, "digits", "")


def test_a_run_without_model_is_named(store, training):
    with pytest.raises(TrackingError, match=r"\(train broken, FAILED\): made no model; give a finished"):
        register_pointer(store, "digits", "train broken", "")
    with pytest.raises(TrackingError, match="run 'nope': no such run"):
        materialize_to(lambda: store, "nope", None, "digits", "")
    store.client.delete_run(training)
    with pytest.raises(TrackingError, match="no finished training in this store; `dvc repro` makes one"):
        register_pointer(store, "digits", "", "")
