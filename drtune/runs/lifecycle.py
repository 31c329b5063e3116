"""The life of a stage process: it dies with its parent, stops when told, and owns its checkpoints alone."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from drtune.base.errors import TrainingError

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""
LOCK = "lock"
SAME_START_SECONDS = 2.0
"""A process's start time moves a little when the clock is set."""


class Stopped(SystemExit):
    """SIGTERM or SIGINT arrived; uncaught, the process exits with 128 + the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signal = signal.Signals(signum)


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies, and take it at once if it is dead already.

    A `dvc` that is killed otherwise leaves its stage training, and the next `dvc repro` starts a second one.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if parent_is_gone():
        signal.raise_signal(signal.SIGTERM)


def parent_is_gone() -> bool:
    """Whether the `dvc` that started this stage has died, as while Python was still loading modules.

    DVC starts a stage in its own process group; whoever inherits an orphan lives in another one.
    """
    if "DVC_STAGE" not in os.environ:
        return False
    try:
        return os.getpgid(os.getppid()) != os.getpgid(0)
    except ProcessLookupError:
        return True


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` in the main thread on SIGTERM or SIGINT; on leaving, the old handlers come back.

    Once stopping, another SIGTERM is ignored: the signal to a process group and the one for the parent's
    death arrive together, and the second must not cut the clean-up short. Another Ctrl-C does. Outside the
    main thread, where Python takes no handlers, nothing changes.
    """
    owner, stopped = os.getpid(), False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if os.getpid() != owner:  # a forked data worker: its parent ends it
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        if stopped and signum == signal.SIGTERM:
            return
        stopped = True
        raise Stopped(signum)

    before = {}
    with contextlib.suppress(ValueError):
        for signum in (signal.SIGTERM, signal.SIGINT):
            before[signum] = signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


held_locks: set[int] = set()


def drop_locks_in_child() -> None:
    """Close inherited lock files: a data worker that outlives a killed parent must not hold its lock."""
    for descriptor in held_locks:
        os.close(descriptor)
    held_locks.clear()


os.register_at_fork(after_in_child=drop_locks_in_child)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a checkpoint folder alone; made where it is missing. The kernel frees it when the process ends.

    On leaving, a folder that holds nothing but the lock is removed; a checkpoint stays for the next process.

    Raises:
        TrainingError: another living process holds it, or it is a link.
    """
    descriptor = locked(folder)
    held_locks.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if descriptor in held_locks:  # not so in a forked child, which has closed its copy
            with contextlib.suppress(OSError):
                if os.listdir(folder) == [LOCK]:
                    (folder / LOCK).unlink()
                    folder.rmdir()  # refused where another process has just made its own lock
            held_locks.remove(descriptor)
            os.close(descriptor)


def locked(folder: Path) -> int:
    """Descriptor of the folder's locked lock file; the holder before may remove both at any moment."""
    while True:
        if link := next((path for path in (folder, folder / LOCK) if path.is_symlink()), None):
            raise TrainingError(f"{link}: is a link, which is not followed; remove it and run again")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as fault:
            if fault.errno not in (errno.ENOENT, errno.ELOOP):  # gone, or a link, in this moment
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise TrainingError(
                f"{folder}: another process of this key is alive, pid {holder}; two would write the same "
                f"checkpoints. Wait until it ends or stop it with `kill {holder}`, then run again: "
                "training goes on from its last checkpoint."
            ) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def clear(folder: Path) -> None:
    """Remove everything in a held checkpoint folder but its lock, which goes last (see `exclusive`)."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)


def boot_id() -> str:
    """What tells this boot of the machine from every other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def pid_namespace() -> str:
    """What tells the process numbers of this container from those of every other; empty outside Linux."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process_is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process named by the `proc.` tags has ended; False where this process cannot know."""
    if tags.get("proc.host") != socket.gethostname() or "proc.pid" not in tags:
        return False
    if tags.get("proc.boot") != boot_id():
        return True
    if tags.get("proc.namespace", pid_namespace()) != pid_namespace():
        return False  # another container
    try:
        process = psutil.Process(int(tags["proc.pid"]))
        started = abs(process.create_time() - float(tags["proc.start"])) < SAME_START_SECONDS
        return not started or process.status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, KeyError):
        return True
