"""Commands in forks of this process, which has loaded every module: each costs its own work alone."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

LONGEST_SECONDS = 300.0
"""After which a command hangs and is killed."""


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
