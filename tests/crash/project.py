"""A small project, its states, and commands that run in it in forked processes, armed by crash.c.

This process has loaded every module once, so that a command costs a fork and its own work.
"""

import ctypes
import gc
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

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
SPACE = {"train.lr_head": {"low": 0.01, "high": 1.0}}
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40)}
LONGEST_SECONDS = 300.0
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


def module(command: Sequence[str]) -> int:
    """Run `python -m COMMAND` in this process; returns its exit code."""
    sys.argv = list(command)
    try:
        if command[0] == "drtune":
            from drtune.cli.main import app

            app(list(command[1:]))
        else:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def forked(work: Callable[[], int]) -> int:
    """Run in a forked process; returns its exit code, negative for a signal."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    until, wait = time.monotonic() + LONGEST_SECONDS, 0.002
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(wait)
        wait = min(2 * wait, 0.05)
    return os.waitstatus_to_exitcode(ended[1])


def stand_ins(count: int, arm: Callable[[], None]) -> list[tuple[int, int]]:
    """Forks, made before this process has threads, that wait for a Python module to be: (pid, pipe to it)."""
    made = []
    for _ in range(count):
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            os.dup2(reading, 3)
            os.closerange(4, 256)  # among them the pipes to the others, which end with the parent
            order = json.loads(os.fdopen(3).read() or "{}")
            os._exit(be(order, arm) if order else 0)
        os.close(reading)
        made.append((pid, writing))
    return made


def be(order: dict[str, Any], arm: Callable[[], None]) -> int:
    """Be the process that was asked for."""
    if order["log"]:
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    if order["armed"]:
        arm()
    return module(order["command"])


def replace_starting(spare: list[tuple[int, int]], inner: str) -> None:
    """Let a stand-in be each `python -m MODULE` that is started; the first of module `inner` is armed."""
    begin, armed = subprocess.Popen.__init__, [inner]

    def init(self: Any, args: Any, *rest: Any, **more: Any) -> None:
        words = args.split() if isinstance(args, str) else [str(part) for part in args]
        if not spare or words[0] not in ("python", sys.executable) or words[1] != "-m":
            begin(self, args, *rest, **more)
            return
        pid, pipe = spare.pop(0)
        log = more.get("stdout")
        order = {
            "command": words[2:],
            "environment": dict(more.get("env") or os.environ),
            "folder": str(more.get("cwd") or os.getcwd()),
            "log": os.readlink(f"/proc/self/fd/{log.fileno()}") if log else "",
            "armed": words[2] in armed,
        }
        if order["armed"]:
            armed.clear()
        os.write(pipe, json.dumps(order).encode())
        os.close(pipe)
        vars(self).update(pid=pid, args=args, returncode=None, stdin=None, stdout=None, stderr=None)
        vars(self).update(_waitpid_lock=Lock(), _child_created=True, _communication_started=False)

    subprocess.Popen.__init__ = init  # type: ignore[method-assign]


def copy(source: Path, target: Path) -> None:
    """Copy a project, its links as links; files that nobody writes in place are shared."""

    def one(path: str, to: str) -> None:
        if Path(path).relative_to(source).parts[0] in LINKED:
            os.link(path, to, follow_symlinks=False)
        else:
            shutil.copy2(path, to, follow_symlinks=False)

    shutil.copytree(source, target, copy_function=one, symlinks=True)
