"""The life of a process: it dies with its parent, stops when told, and locks what it alone may write."""

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
    """Get SIGTERM when the parent dies, or at once if it is dead: a killed `dvc` leaves no stage training."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if parent_is_gone():
        signal.raise_signal(signal.SIGTERM)


def parent_is_gone() -> bool:
    """Whether the `dvc` that started this stage died, maybe while Python was loading modules.

    DVC starts a stage in its own process group; whoever inherits an orphan lives in another one.
    """
    try:
        return "DVC_STAGE" in os.environ and os.getpgid(os.getppid()) != os.getpgid(0)
    except ProcessLookupError:
        return True


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` in the main thread on SIGTERM or SIGINT; on leaving, the old handlers come back.

    Once stopping, another SIGTERM is ignored: the signal to a process group and the one for the parent's
    death arrive together, and the second must not cut the clean-up short. Another Ctrl-C does.
    """
    owner, stopped = os.getpid(), False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if os.getpid() != owner:  # a forked data worker: its parent ends it
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
        elif signum == signal.SIGINT or not stopped:
            stopped = True
            raise Stopped(signum)

    before = {}
    with suppress(ValueError):  # Python takes handlers in the main thread alone
        for signum in (signal.SIGTERM, signal.SIGINT):
            before[signum] = signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


held_locks: set[int] = set()


def _drop_locks_in_child() -> None:  # a data worker that outlives a killed parent must not hold its lock
    for descriptor in held_locks:
        os.close(descriptor)
    held_locks.clear()


os.register_at_fork(after_in_child=_drop_locks_in_child)


def claim(path: Path, seconds: float = 0.0, access: int = os.O_RDONLY) -> int | None:
    """Lock a file, made where it is missing, for `release`; the kernel frees it when the process ends.

    None while another living process holds it, after trying for so many seconds; OSError where it is a link.
    """
    until = time.monotonic() + seconds
    while True:
        descriptor = os.open(path, access | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):  # the holder before may have removed it
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    held_locks.add(descriptor)
                    return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                return None
            time.sleep(0.05)
        os.close(descriptor)


def release(descriptor: int) -> None:
    """Free what `claim` locked; in a forked child, which has let go of it already, nothing happens."""
    if descriptor in held_locks:
        held_locks.remove(descriptor)
        os.close(descriptor)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a checkpoint folder alone; made where it is missing, removed where nothing but the lock is in it.

    TrainingError: another living process holds it, or it is a link.
    """
    descriptor, lock = _claim_folder(folder), folder / LOCK
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if descriptor in held_locks:  # not so in a forked child, which has closed its copy
            with suppress(OSError):
                if os.listdir(folder) == [LOCK]:
                    lock.unlink()
                    folder.rmdir()  # refused where another process has just made its own lock
            release(descriptor)


def _claim_folder(folder: Path) -> int:
    while True:
        if link := next((path for path in (folder, folder / LOCK) if path.is_symlink()), None):
            raise TrainingError(f"{link}: is a link, which is not followed; remove it and run again")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = claim(folder / LOCK, access=os.O_RDWR)
        except OSError as fault:
            if fault.errno not in (errno.ENOENT, errno.ELOOP):  # removed, or made a link, in this moment
                raise
            continue
        if descriptor is not None:
            return descriptor
        holder = holder_of(folder)
        raise TrainingError(
            f"{folder}: another process of this key is alive, pid {holder}; two would write the same "
            f"checkpoints. Wait until it ends or stop it with `kill {holder}`, then run again: "
            "training goes on from its last checkpoint."
        )


def holder_of(folder: Path) -> str:
    """Number of the process that holds a checkpoint folder."""
    with suppress(OSError):
        return (folder / LOCK).read_text(errors="replace").strip()[:32] or "unknown"
    return "unknown"


def clear(folder: Path) -> None:
    """Remove everything in a held checkpoint folder but its lock, which goes last (see `exclusive`)."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)


def boot_id() -> str:
    """What tells this boot of the machine from every other."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(int(psutil.boot_time()))


def pid_namespace() -> str:
    """What tells the process numbers of this container from those of every other; empty outside Linux."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
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
