"""The workers of a study on this machine: processes that are started, watched, started again, and ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from drtune.base.errors import StudyError
from drtune.runs.store import scrub
from drtune.studies.process import PARENT
from drtune.studies.storage import VARIABLE

MODULE = "drtune.studies.process"
TOLD = (128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Exit codes of a worker that somebody told to stop."""
RESTARTS = 5
"""How often, in all, a worker that was killed is replaced."""
LOOK_SECONDS, NEWS_SECONDS, END_SECONDS = 0.2, 2.0, 30.0
LAST_LINES = 12


@dataclass(frozen=True)
class Crew:
    """How a study is worked on here.

    The workers share the GPUs in turn; without any, PyTorch chooses. After `until`, in Unix seconds, no trial
    is begun. The address of the storage goes by the environment, where no other user reads it.
    """

    study: str
    storage: str
    workers: int
    gpus: Sequence[str]
    until: float | None
    logs: Path

    def log_of(self, place: int) -> Path:
        """What a worker prints."""
        return self.logs / f"worker-{place}.log"


def supervise(crew: Crew, news: Callable[[], None]) -> None:
    """Keep the workers at work until none finds another trial; `news` is called every few seconds and last.

    One that is killed is replaced; a fault of the user, or workers that are killed again and again, end the
    study in a StudyError. Whatever ends this, the workers are told to stop first, and keep their checkpoints.
    """
    crew.logs.mkdir(parents=True, exist_ok=True)
    team: dict[int, subprocess.Popen[bytes]] = {}
    restarts, told = 0, time.monotonic()
    try:
        for place in range(crew.workers):
            team[place] = start(crew, place)
        while team:
            time.sleep(LOOK_SECONDS)
            for place, code in [(place, code) for place in team if (code := team[place].poll()) is not None]:
                del team[place]
                if code > 0 and code not in TOLD:
                    raise StudyError(f"worker {place} ended with {code}:\n{last_lines(crew.log_of(place))}")
                restarts += bool(code)
                if restarts > RESTARTS:
                    what = f"workers were killed {restarts} times, last with {code}"
                    raise StudyError(f"study {crew.study!r}: {what}; see {crew.log_of(place)}")
                if code:
                    team[place] = start(crew, place)
            if time.monotonic() - told > NEWS_SECONDS:
                news()
                told = time.monotonic()
    finally:
        end(list(team.values()))
    news()


def start(crew: Crew, place: int) -> "subprocess.Popen[bytes]":
    """Start a worker, on its GPU; with as many threads as `dvc repro` has, its models have the same bytes."""
    environment = dict(os.environ) | {VARIABLE: crew.storage, PARENT: str(os.getpid())}
    if crew.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = crew.gpus[place % len(crew.gpus)]
    command = [sys.executable, "-m", MODULE, crew.study, *([] if crew.until is None else [str(crew.until)])]
    with crew.log_of(place).open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )


def end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Tell processes to stop, and kill what does not."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + END_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_lines(path: Path) -> str:
    """The end of a log, without the password of any address in it."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().split("\n")
    return scrub("\n".join(f"  {line}" for line in lines[-LAST_LINES:]))
