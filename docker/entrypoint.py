#!/usr/bin/env python3
"""Run a command under tini: end it as Ctrl-C would, and leave when its last process has left.

`docker stop` sends SIGTERM. dvc dies of that at once: its locks keep naming a process that is gone, and the
container ends with it, together with the stage that was just closing its run. On SIGINT dvc waits for the
stage and then clears up.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h: whose parent has died becomes a child of this process."""
GRACE_SECONDS = 30
"""How long the rest may take where the command itself was killed; a stage closes its run in 20 s at most."""


def run(command: list[str]) -> int:
    """Exit code of `command` as a shell gives it: 127 not found, 126 not executable, 128 + signal."""
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        from_terminal = signum == signal.SIGINT and os.isatty(0)  # then the kernel has told the whole group
        if not (stopping or from_terminal):
            stopping = True
            os.killpg(0, signal.SIGINT)

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    code = None
    while code is None:
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
    end = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
    return code if code >= 0 else 128 - code


def join(folder: Path) -> None:
    """Hold DVC's folder `.dvc/tmp` together with other containers; the only one drops what killed ones left.

    DVC notes who reads and writes what by process id, and believes a note whose id is in use. Every container
    counts from 1, so the note of a killed one would block the next for ever.
    """
    with contextlib.suppress(OSError, ValueError):
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / "containers", os.O_RDONLY | os.O_CREAT, 0o666)  # closed by the end
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            drop_notes(folder / "rwlock", f"{sys.prefix}/bin/")
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def drop_notes(rwlock: Path, ours: str) -> None:
    """Take the notes of commands that start with `ours` out of DVC's file; those of the host stay."""
    if rwlock.exists():
        notes = json.loads(rwlock.read_text() or "{}")
        readers = {
            path: [note for note in found if not note["cmd"].startswith(ours)]
            for path, found in notes.get("read", {}).items()
        }
        writers = notes.get("write", {}).items()
        kept = {
            "read": {path: found for path, found in readers.items() if found},
            "write": {path: note for path, note in writers if not note["cmd"].startswith(ours)},
        }
        rwlock.write_text(json.dumps(kept))


if __name__ == "__main__":
    join(Path(".dvc/tmp"))
    sys.exit(run(sys.argv[1:]))
