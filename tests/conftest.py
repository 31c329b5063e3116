"""A toy task that the whole pipeline runs in seconds: coloured squares and a tiny network."""

import contextlib
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from drtune.base.numeric import set_numeric_state
from drtune.base.report import NullReport
from drtune.base.settings import Params
from drtune.params import load
from drtune.runs import runner
from drtune.runs.console import Bar

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
TINY = {
    "data.source": "images",
    "data.shots": 6,
    "data.val_fraction": 0.25,
    "data.test_fraction": 0.25,
    "backbone.kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "backbone.weights": str(ROOT / "catalog/random.yaml"),
    "backbone.image_size": 32,
    "extract.batch_size": 8,
    "train.epochs": 2,
    "train.optimizer": "sgd",
    "train.batch_norm": "train",
    "train.head_init": "normal",
    "train.lr_backbone": 0.03,
    "train.lr_head": 0.05,
    "train.lr_head_unit": "absolute",
    "train.batch_size": 8,
    "methods.dr_tune.bank_size": 16,
    "evaluate.bootstrap": 100,
    "runtime.device": "cpu",
    "runtime.threads": 1,
}


@pytest.fixture(scope="session")
def squares():
    """Draw 12 noisy squares of each colour as `folder`/COLOUR/NUMBER.png."""

    def draw(folder, seed=0, count=12):
        noise = random.Random(seed)
        for name, colour in COLOURS.items():
            (folder / name).mkdir(parents=True)
            for number in range(count):
                shade = [channel + noise.randint(-30, 30) for channel in colour]
                Image.new("RGB", (24, 24), tuple(shade)).save(folder / name / f"{number}.png")
        return folder

    return draw


@pytest.fixture(scope="session")
def tiny_params():
    """Write params.yaml with everything made small; `change` maps dotted names to values."""

    def write(path, change=None):
        values = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
        for name, value in {**TINY, **(change or {})}.items():
            *sections, leaf = name.split(".")
            node = values
            for section in sections:
                node = node[section]
            assert leaf in node, name
            node[leaf] = value
        YAML(typ="safe", pure=True).dump(values, path)
        return path

    return write


@pytest.fixture
def clean_torch():
    """Put back the switches that a training sets for its whole process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    threads = torch.get_num_threads()
    yield
    AcceleratorState._reset_state(True)
    set_numeric_state(0, threads)


CODE = ["drtune", "pipeline", "catalog", "dvc.yaml", "numbers.lock", ".gitignore", ".dvcignore"]
CODE += [".dvc/config", ".dvc/.gitignore"]


@pytest.fixture(scope="session")
def copy_code():
    """Copy what a repository of the project holds into a folder; settings and data are the test's own."""

    def copy(folder: Path) -> Path:
        for name in CODE:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        return folder

    return copy


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An MLflow store without runs, made once: MLflow takes seconds to make its tables."""
    from drtune.runs.run_store import prepare_database

    folder = tmp_path_factory.mktemp("store")
    prepare_database(folder / "mlflow.db", folder)
    return folder / "mlflow.db"


SPACE = {"methods.dr_tune.weight": {"low": 0.1, "high": 10.0, "log": True}}
PLAN = {
    "metric": "val_accuracy",
    "direction": "maximize",
    "cost": None,
    "trials": 3,
    "seeds": 1,
    "sampler": "random",
    "startup_trials": 1,
    "pruner": "none",
    "warmup_epochs": 0,
    "seed": 0,
    "space": SPACE,
}


@pytest.fixture(scope="session")
def empty_storage(tmp_path_factory) -> Path:
    """An Optuna storage without studies, made once."""
    from drtune.studies.storage import open_storage

    path = tmp_path_factory.mktemp("storage") / "optuna.db"
    with warnings.catch_warnings(action="ignore"):  # pytest puts Optuna's back, which we switch off
        open_storage(f"sqlite:///{path}").engine.dispose()
    return path


@pytest.fixture
def new_study(tmp_path, empty_storage):
    """Begin a study of `methods.dr_tune.weight` in `folder`/.drtune/optuna.db; `change` names settings."""
    from optuna.distributions import FloatDistribution

    from drtune.studies.design import Design
    from drtune.studies.space import StudySettings
    from drtune.studies.storage import open_storage
    from drtune.studies.study import begin

    opened = []

    def make(name="s", folder=tmp_path, **change):
        path = folder / ".drtune" / "optuna.db"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            shutil.copy(empty_storage, path)
        settings = StudySettings.model_validate({**PLAN, **change})
        own = {"methods.dr_tune.weight": 1.0}
        design = Design(
            settings, {"methods.dr_tune.weight": FloatDistribution(0.1, 10.0, log=True)}, own, {}, {}
        )
        with warnings.catch_warnings(action="ignore"):
            opened.append(open_storage(f"sqlite:///{path}"))
            return begin(opened[-1], name, design, settings.trials)

    yield make
    for storage in opened:
        storage.engine.dispose()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


class Recorder(NullReport):
    """A report that remembers what it is told, and prints what a user would see."""

    def __init__(self, folder=Path("running")):
        super().__init__(folder)
        self.params, self.metrics, self.artifacts = {}, [], []

    def log_params(self, params):
        self.params |= params

    def log_metrics(self, values, step=0):
        self.metrics.append((dict(values), step))

    def log_artifact(self, path):
        assert path.exists(), path
        self.artifacts.append(str(path))

    def progress(self, label, unit, scale=1.0):
        return Bar(label, unit, scale)

    def say(self, line):
        print(line)

    @property
    def names(self):
        return {name for values, _ in self.metrics for name in values}


class Made(NamedTuple):
    """What a stage's `main` is handed."""

    params: Params
    run: Recorder


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
    monkeypatch.setattr(runner, "die_with_parent", lambda: None)

    def run(name):
        try:
            runner.run_stage([name])
        except SystemExit as end:
            return end.code
        return 0

    return run


@pytest.fixture
def stage(folder, tiny_params):
    """Make what a script's `main` is handed, under changed settings."""

    def make(change=None):
        tiny_params(folder / "params.yaml", change)
        return Made(load(Path("params.yaml")), Recorder(folder / "running"))

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory, squares, tiny_params):
    """A folder in which download, extract and train have run; copy it before changing it."""
    from accelerate.state import AcceleratorState

    from pipeline import download, extract, train

    folder = tmp_path_factory.mktemp("finished")
    squares(folder / "images")
    params = load(tiny_params(folder / "params.yaml"))
    AcceleratorState._reset_state(True)
    with contextlib.chdir(folder):
        for script in (download, extract, train):
            script.main(params, Recorder(folder / "running"))
    return folder


@pytest.fixture
def finished_stage(finished, folder, stage):
    """As `stage`, in a folder where the stages before evaluate have run."""
    for name in ("data", "models"):
        shutil.copytree(finished / name, folder / name)
    return stage
