"""A folder to run stage scripts in, and a run that only remembers what it is told."""

import contextlib
import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from drtune.params import SETTINGS, load
from drtune.runs import runner as life
from drtune.runs.runner import Stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


class Recorder:
    """Takes the calls that stages make of a `StageRun`."""

    def __init__(self):
        self.params, self.metrics, self.artifacts = {}, [], []

    def log_params(self, params):
        self.params |= params

    def log_metrics(self, values, step=0):
        self.metrics.append((dict(values), step))

    def log_artifact(self, path, folder=""):
        assert path.exists(), path
        self.artifacts.append(str(path))

    @property
    def names(self):
        return {name for values, _ in self.metrics for name in values}


@pytest.fixture(scope="session")
def recorder():
    return Recorder


@pytest.fixture
def folder(tmp_path, squares, tiny_params, monkeypatch, clean_torch):
    """The current folder, with images and params.yaml of the toy task."""
    squares(tmp_path / "images")
    tiny_params(tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def as_script(monkeypatch):
    """Run `python -m pipeline.NAME` in this process and return its exit code."""
    monkeypatch.setattr(life, "die_with_parent", lambda: None)

    def run(name):
        monkeypatch.delitem(sys.modules, f"pipeline.{name}", raising=False)
        try:
            runpy.run_module(f"pipeline.{name}", run_name="__main__")
        except SystemExit as end:
            return end.code
        return 0

    return run


@pytest.fixture
def stage(folder, tiny_params):
    """Make what a script's `main` is handed, under changed settings."""

    def make(change=None):
        tiny_params(folder / "params.yaml", change)
        return Stage(load(Path("params.yaml"), SETTINGS), Recorder(), folder / "running")

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory, squares, tiny_params):
    """A folder in which download, extract and train have run; copy it before changing it."""
    from accelerate.state import AcceleratorState

    from pipeline import download, extract, train

    folder = tmp_path_factory.mktemp("finished")
    squares(folder / "images")
    params = load(tiny_params(folder / "params.yaml"), SETTINGS)
    AcceleratorState._reset_state(True)
    with contextlib.chdir(folder):
        for script in (download, extract, train):
            script.main(Stage(params, Recorder(), folder / "running"))
    return folder


@pytest.fixture
def finished_stage(finished, folder, stage):
    """As `stage`, in a folder where the stages before evaluate have run."""
    for name in ("data", "models"):
        shutil.copytree(finished / name, folder / name)
    return stage
