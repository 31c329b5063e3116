"""Git, a clean environment and a store root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

GIT_IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in (
        "MLFLOW_TRACKING_URI",
        "DVC_ROOT",
        "DVC_STAGE",
        "DVC_EXP_NAME",
        "DVC_EXP_BASELINE_REV",
        "GIT_COMMIT",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in GIT_IDENTITY.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def git() -> Callable[..., str]:
    def run(folder: Path, *arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
        ).stdout

    return run


@pytest.fixture
def root(tmp_path, empty_database) -> Path:
    """A store root with an empty store; its name holds what breaks careless addresses."""
    folder = tmp_path / "a project ü"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


TOY = """
stages:
  fetch:
    cmd: python toy_stage.py
    deps: [source.json]
    outs: [data/raw]
  make:
    cmd: python toy_stage.py
    deps: [data/raw, toy_stage.py, side]
    params: [scale]
    outs: [out]
    metrics: [{score.json: {cache: false}}]
"""


class Toy:
    """A repository with DVC stages that log to MLflow; git and DVC know nothing of `side`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inherited = {name: v for name, v in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
        self.environment = inherited | {
            **GIT_IDENTITY,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
            "OMP_NUM_THREADS": "1",
        }

    def __call__(self, *command: str, code: int = 0) -> str:
        """What a command says; it must end with this exit code."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def commit(self) -> None:
        self("git", "add", "-A")
        self("git", "commit", "-q", "-m", "a")

    def ship(self) -> None:
        """Send what a stage had no time to send on a busy machine."""
        from drtune.runs.journal import ship
        from drtune.runs.mlflow_run import MlflowTarget

        for journal in self.folder.glob(".drtune/journal/*.jsonl"):
            ship(journal, MlflowTarget(self.folder))

    def runs(self) -> list:
        """Runs of `make`, newest first."""
        from drtune.runs.run_store import RunStore

        return list(RunStore(self.folder).search("tags.`drtune.stage` = 'make'"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory, empty_database) -> Toy:
    """A repository whose stages ran once, with uncommitted code, in an experiment that is gone."""
    made = Toy(tmp_path_factory.mktemp("restore") / "a project")
    made.folder.mkdir()
    made("git", "init", "-q", "-b", "main")
    made("dvc", "init", "-q")
    shutil.copy(empty_database, made.folder / "mlflow.db")
    shutil.copy(Path(__file__).with_name("toy_stage.py"), made.folder)
    files = {"dvc.yaml": TOY, "params.yaml": "scale: 1  # of all\n", "source.json": "[2, 3]", "noise": "1"}
    files[".gitignore"] = "/data\n/out\n/side\n/mlruns\n/.drtune\nmlflow.db*\n__pycache__\n"
    for name, text in {**files, "side": "s"}.items():
        (made.folder / name).write_text(text)
    made.commit()
    code = made.folder / "toy_stage.py"
    code.write_text(code.read_text().replace("FACTOR = 1", "FACTOR = 10"))
    made("dvc", "exp", "run", "--temp", "-C", "side", "-n", "gone", "-S", "scale=7")
    made("dvc", "exp", "remove", "gone")
    made("git", "checkout", "-q", "--", ".")
    made.ship()
    return made


@pytest.fixture
def store(toy):
    from drtune.runs.run_store import RunStore

    return RunStore(toy.folder)


@pytest.fixture
def place(toy, tmp_path):
    """Where to restore to; the worktree goes again."""
    from drtune.runs.restore import forget

    folder = tmp_path / "there"
    yield folder
    forget(toy.folder, folder)


@pytest.fixture
def held(toy):
    """What the store holds of the run, put back afterwards."""
    (run,) = toy.runs()
    folder = next(toy.folder.glob(f"mlruns/**/{run.run_id}/artifacts/provenance"))
    shutil.copytree(folder, aside := folder.with_name("aside"))
    yield folder
    shutil.rmtree(folder)
    aside.rename(folder)
