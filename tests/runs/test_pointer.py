import json

from drtune.runs.pointer import POINTER, SIGNATURE, installed, write_pointer

OUT = {"path": "models", "md5": "0" * 32 + ".dir", "size": 5, "nfiles": 3}


def test_a_pointer_is_a_model_to_mlflow(tmp_path):
    from mlflow.models import Model
    from mlflow.types import DataType

    write_pointer(tmp_path / "model", OUT, {"root": "here"})
    model = Model.load(str(tmp_path / "model"))
    assert model.flavors["python_function"]["loader_module"] == "drtune.serving.pointer"
    assert model.metadata == {"dvc.md5": OUT["md5"], "dvc.path": "models"}
    (column,) = model.signature.inputs.inputs
    assert (column.name, column.type) == ("image", DataType.binary)
    assert model.signature.outputs.input_names() == ["label", "probability", "probabilities"]
    assert {side: json.dumps(columns) for side, columns in SIGNATURE.items()} == {
        side: text for side, text in model.signature.to_dict().items() if text
    }
    assert json.loads((tmp_path / "model" / POINTER).read_text()) == {**OUT, "root": "here"}


def test_a_pointer_is_small_and_replaces_an_earlier_one(tmp_path):
    for md5 in ("1", "2"):
        write_pointer(tmp_path / "model", OUT | {"md5": md5}, {})
    files = list((tmp_path / "model").iterdir())
    assert sorted(file.name for file in files) == ["MLmodel", "pointer.json"]
    assert sum(file.stat().st_size for file in files) < 2000
    assert json.loads((tmp_path / "model" / POINTER).read_text())["md5"] == "2"


def test_version_of_what_is_not_installed_is_empty():
    assert installed("no-such-distribution-here") == ""
    assert installed("pytest")
