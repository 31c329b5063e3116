"""Git, a clean environment and a store root."""

import os
import shutil
import subprocess
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
