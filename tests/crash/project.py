"""A small project, its states, and commands that run in it, armed by crash.c."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from process import forked, module, replace_starting, stand_ins
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
CODE = ["drtune", "pipeline", "catalog", "dvc.yaml", "numbers.lock", ".gitignore", ".dvcignore"]
CODE += [".dvc/config", ".dvc/.gitignore"]
LINKED = ("drtune", "pipeline", "catalog", "images", ".git", ".dvc")
"""Written anew or not at all, never in place: states share these files."""
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"source": "images", "val_fraction": 0.25, "test_fraction": 0.25, "shots": 4},
    "backbone": {
        "kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
        "weights": "catalog/random.yaml",
        "image_size": 32,
    },
    "extract": {"batch_size": 8},
    "train": {"epochs": 2, "batch_size": 8, "batch_norm": "train", "head_init": "normal"},
    "evaluate": {"bootstrap": 100},
    "runtime": {"device": "cpu", "threads": 1, "workers": 0},
    "study": {"trials": 2, "sampler": "random", "pruner": "none", "seed": 1},
}
SPACE = {"train.lr_head": [0.25, 0.5]}
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40)}
STORE_AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
WORKER = "drtune.studies.process"
MODULES = ["dvc.cli", "mlflow.store.tracking.sqlalchemy_store", "optuna.storages._rdb.storage"]
MODULES += [
    "drtune.methods.dr_tune.method",
    "drtune.runs.restore",
    "drtune.runs.sync",
    "drtune.training.loop",
]
MODULES += ["drtune.serving.registry", "drtune.studies.launch", "drtune.cli.main", WORKER]
MODULES += [f"pipeline.{stage}" for stage in ("download", "extract", "train", "evaluate")]
OFF, COUNT, KILL, TEAR, FULL, BROKEN = range(6)
"""The modes of crash.c."""


@dataclass(frozen=True)
class Point:
    """One change on the disk: the `number`-th of the main thread, or of the others; `what` it was."""

    other: int
    number: int
    what: str = ""


@dataclass(frozen=True)
class Ended:
    """How a command ended, what it said, and the points that it came by."""

    code: int
    said: str
    points: list[Point] = field(default_factory=list)


def environment(top: Path) -> dict[str, str]:
    """That of a user's shell, without what steers DVC and MLflow."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    people = {f"GIT_{who}_NAME": "a" for who in ("AUTHOR", "COMMITTER")}
    people |= {f"GIT_{who}_EMAIL": "a@example.org" for who in ("AUTHOR", "COMMITTER")}
    return (
        kept
        | people
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(top / "site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "TMPDIR": str(top / "tmp"),
        }
    )


def load_modules() -> None:
    """Import what the commands import, before any is forked."""
    for name in MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()  # a fork then copies less
    sys.modules["drtune.studies.storage"].PATIENCE_SECONDS = 5.0  # a disk that is full stays so
    trainer = sys.modules["drtune.training.loop"].Trainer
    save = trainer.save
    trainer.save = lambda self, last: save(self, True)  # after every epoch, so that several are points


class Project:
    """The project at `top/project`; `states` hold copies of it to begin from."""

    def __init__(self, top: Path) -> None:
        self.top, self.folder, self.states = top, top / "project", top / "states"
        for name in ("site", "tmp", "states"):
            (top / name).mkdir(parents=True, exist_ok=True)
        self.library = ctypes.CDLL(None)

    def make(self) -> None:
        """Code, images and settings in a commit."""
        from PIL import Image

        for name in CODE:
            source, target = ROOT / name, self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        for place, (name, colour) in enumerate(COLOURS.items()):
            (self.folder / "images" / name).mkdir(parents=True)
            for number in range(12):
                shade = tuple(part + 3 * number + place for part in colour)
                Image.new("RGB", (24, 24), shade).save(self.folder / f"images/{name}/{number}.png")
        params = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
        for section, values in SETTINGS.items():
            params[section].update(values)
        params["study"]["space"] = SPACE
        params["methods"]["dr_tune"]["bank_size"] = 16
        YAML(typ="safe", pure=True).dump(params, self.folder / "params.yaml")
        subprocess.run(["git", "init", "-q"], cwd=self.folder, check=True)
        self.commit()

    def commit(self) -> None:
        """Give git what is there."""
        subprocess.run(["git", "add", "-A"], cwd=self.folder, check=True)
        subprocess.run(["git", "commit", "-q", "--allow-empty", "-m", "a"], cwd=self.folder, check=True)

    def save(self, state: str) -> None:
        """Keep the project as it is now."""
        shutil.rmtree(self.states / state, ignore_errors=True)
        copy(self.folder, self.states / state)

    def go_to(self, state: str) -> None:
        """Make the project what it was."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.top / "tmp")
        (self.top / "tmp").mkdir()
        copy(self.states / state, self.folder)

    def run(
        self,
        command: Sequence[str],
        mode: int = OFF,
        point: Point | None = None,
        inner: str = "",
        children: int = 0,
        clock: int = 0,
        **variables: str,
    ) -> Ended:
        """Run a command in the project.

        Args:
            command: a Python module and its arguments; `drtune` for the command line.
            mode: of crash.c.
            point: where to end or to fail.
            inner: arm the first process of this module that the command starts, not the command.
            children: how many Python processes it may start.
            clock: seconds that the clock is put forward.
            variables: environment.
        """
        lines, log = self.top / "points", self.top / "log"
        lines.write_text("")

        def arm() -> None:
            listed = os.open(lines, os.O_WRONLY | os.O_APPEND)
            other, number = (point.other, point.number) if point else (0, 0)
            self.library.crash_arm(os.fsencode(self.folder), mode, other, ctypes.c_long(number), listed)

        def work() -> int:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            os.chdir(self.folder)
            os.environ.update(variables)
            replace_starting(stand_ins(children, arm), inner)
            self.library.crash_shift_clock(ctypes.c_long(clock))
            if not inner:
                arm()
            return module(command)

        code = forked(work)
        found = (line.split(" ", 2) for line in lines.read_text().splitlines())
        return Ended(
            code,
            log.read_text(errors="replace"),
            [Point(int(other), int(number), what) for other, number, what in found],
        )


def copy(source: Path, target: Path) -> None:
    """Copy a project, its links as links; files that nobody writes in place are shared."""

    def one(path: str, to: str) -> None:
        if Path(path).relative_to(source).parts[0] in LINKED:
            os.link(path, to, follow_symlinks=False)
        else:
            shutil.copy2(path, to, follow_symlinks=False)

    shutil.copytree(source, target, copy_function=one, symlinks=True)
