import ast
import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import drtune
from drtune.base.errors import WeightsError
from drtune.serving.pyfunc import ImageClassifier
from drtune.serving.registry import PACKAGES, materialize, pins

ROOT = Path(__file__).resolve().parents[2]
PREDICT = "from mlflow.cli import cli; cli(standalone_mode=False); import drtune; print(drtune.__file__)"


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    """A materialized model."""
    folder = tmp_path_factory.mktemp("served") / "digits model"
    materialize(model_folder, folder, pins(ROOT / "requirements.lock"), {"dvc.md5": "0"})
    return folder


def test_it_holds_weights_code_requirements_and_signature(served, model_folder):
    card = yaml.safe_load((served / "MLmodel").read_text())
    assert card["metadata"] == {"dvc.md5": "0"}
    assert json.loads(card["signature"]["inputs"]) == [{"type": "binary", "name": "image", "required": True}]
    data = served / card["flavors"]["python_function"]["data"]
    for name in ("model.safetensors", "model.json"):
        assert (data / name).read_bytes() == (model_folder / name).read_bytes()
    assert (served / "code/drtune/serving/pyfunc.py").is_file()
    assert not list(served.rglob("__pycache__"))
    assert "torch==" in (served / "requirements.txt").read_text()


def test_mlflow_serves_raw_images_without_the_project(served, pictures, model_folder, tmp_path):
    rows = [[base64.b64encode(encoded).decode()] for encoded in pictures]
    (tmp_path / "in.json").write_text(json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}))
    command = ["models", "predict", "-m", str(served), "--env-manager", "local", "-t", "json"]
    command += ["-i", str(tmp_path / "in.json"), "-o", str(tmp_path / "out.json")]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *command],
        cwd=tmp_path,
        env={**inherited, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("code/drtune/__init__.py"), "the code beside the model answers"
    said = json.loads((tmp_path / "out.json").read_text())["predictions"]
    expected = ImageClassifier(model_folder, "cpu").probabilities(pictures).tolist()
    assert [list(row["probabilities"]) for row in said] == [["red", "green", "blue"]] * 3
    for row, shares in zip(said, expected, strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(shares, abs=1e-5)
        assert row["probabilities"][row["label"]] == row["probability"] == max(row["probabilities"].values())


def test_what_is_no_model_is_refused_and_nothing_is_left(model_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="empty: holds no model.safetensors and no model.json; `dvc repro"):
        materialize(tmp_path / "empty", tmp_path / "to", [], {})
    with pytest.raises(WeightsError, match="empty: exists already; remove it or choose another folder"):
        materialize(model_folder, tmp_path / "empty", [], {})
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_pins_come_from_the_lock_and_else_from_what_is_installed(tmp_path):
    (tmp_path / "lock").write_text("Torch==9.9 ; python_version < '4'\ntorchvision==1\nruamel.yaml==0.1\n")
    found = pins(tmp_path / "lock")
    assert found[:1] != ["mlflow==9.9"]
    assert "Torch==9.9 ; python_version < '4'" in found
    assert "ruamel.yaml==0.1" in found
    assert len(found) == len(PACKAGES)
    assert all("==" in line for line in pins(None))


def imports(tree):
    """Dotted names that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_package_that_the_served_code_imports_is_required():
    names = {"PIL": "pillow", "ruamel": "ruamel-yaml", "pydantic_core": "pydantic", "huggingface_hub": "timm"}
    names["yaml"] = "pyyaml"
    waiting, seen, packages = ["drtune.serving.pyfunc"], set(), set()
    while waiting:
        path = Path(drtune.__file__).parent.joinpath(*waiting.pop().split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        for name in imports(ast.parse(file.read_text())):
            top = name.split(".")[0]
            waiting += [name] if top == "drtune" else []
            packages |= {top} - {"drtune"} - set(sys.stdlib_module_names)
    assert len(seen) > 8
    assert {names.get(name, name) for name in packages} <= set(PACKAGES)
