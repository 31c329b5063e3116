"""pretrain/ is a DVC repository of its own, with the project's code behind links."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = [
    "drtune",
    "pipeline",
    "catalog",
    "numbers.lock",
    "dvc.yaml",
    ".dvc/config",
    ".dvcignore",
    "params.yaml",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory, squares):
    """A copy of the project in git, its links kept, with toy images to pretrain on."""
    folder = tmp_path_factory.mktemp("pretrain") / "project"
    for name in [*NEEDED, "pretrain"]:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "images", "models", "mlruns", "mlflow.db*")
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, target)
    squares(folder / "pretrain/images/train")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def run(folder, *command):
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    own = {"PYTHONPATH": "", "DVC_SITE_CACHE_DIR": str(folder.parent / "site"), "DVC_NO_ANALYTICS": "1"}
    environment = inherited | own
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_makes_an_encoder_and_the_project_never_reads_its_stages(project, tiny_params):
    settings = project / "pretrain/params.yaml"
    text = settings.read_text()
    for old, new in {
        "channels: [24, 48, 96, 192]": "channels: [8, 8, 16, 16]",
        "stem_width: 16": "stem_width: 8",
        "epochs: 40": "epochs: 1",
        "warmup_epochs: 2.0": "warmup_epochs: 0.0",
        "val_fraction: 0.05": "val_fraction: 0.25",
        "test_fraction: 0.05": "test_fraction: 0.25",
        "threads: auto": "threads: 1",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    settings.write_text(text)
    folder = project / "pretrain"
    run(folder, "dvc", "repro")
    assert (folder / "encoder.safetensors").stat().st_size > 10_000
    assert json.loads((folder / "metrics/validation.json").read_text())["best_epoch"] == 1
    assert list((project / "drtune").rglob("*.pyc")), "Python has left its files behind the link"
    assert json.loads(run(folder, "dvc", "status", "--json")) == {}
    run(project, "dvc", "gc", "--workspace", "--force")
    shutil.rmtree(folder / "models")
    run(folder, "dvc", "checkout")
    assert (folder / "models/model.safetensors").is_file(), "gc in the project does not reach its cache"
    stages = run(project, "dvc", "stage", "list", "--all", "--name-only").split()
    assert stages == ["download", "extract", "train", "evaluate"]
