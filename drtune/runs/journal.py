"""The journal of a run: one JSON line an event on the local disk, shipped to the store by a thread.

A training writes microseconds-cheap lines and never waits for the store. The shipper sends what lies behind
the byte offset in `<journal>.off` and then moves it. A kill between the two loses and doubles nothing: the
target asks the store what it holds before it sends again. Whoever writes or ships a journal holds its lock,
so a journal whose lock is free belongs to no living process. Kinds of lines: `run` (the first: all that is
needed to make the run in a store), `params`, `tags`, `metrics`, `input`, `artifact`, `status`.
"""

import fcntl
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from drtune.base.files import replacing
from drtune.runs.lifecycle import held_locks
from drtune.runs.store import scrub

log = logging.getLogger(__name__)

Entry = dict[str, Any]
SHIP_EVERY_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 60.0
CHUNK_BYTES = 1 << 20
CLAIM_SECONDS = 10.0
"""How long a stage waits for a journal that `drtune sync` is shipping before it begins one of its own."""
FORK_SECONDS = 30.0
ENDED = ("FINISHED", "FAILED", "KILLED")


def journal_folder(root: Path) -> Path:
    """Where the journals of a store root are."""
    return root / ".drtune" / "journal"


def journal_path(folder: Path, key: str, resume: bool, recorded: bool = True) -> Path:
    """File for a run with this stage key: the newest unfinished one if `resume`, else a new one.

    A finished one too is continued where its result was never `recorded` and the work is done again.
    """
    prefix = key[:16] or "nokey"
    if resume and key:
        found = sorted(path for path in folder.glob(f"{prefix}-*.jsonl") if not path.is_symlink())
        for path in found[-1:]:
            statuses = [entry["status"] for entry in entries_of(path) if entry["kind"] == "status"]
            if statuses[-1:] != ["FINISHED"] or not recorded:
                return path
    return folder / f"{prefix}-{time.time_ns():016x}-{os.getpid()}.jsonl"


def entries_of(path: Path) -> Iterator[Entry]:
    """All whole lines of a journal, from its start."""
    if path.exists():
        with path.open("rb") as stream:
            yield from parsed(line for line in stream if line.endswith(b"\n"))


def parsed(lines: Iterable[bytes]) -> Iterator[Entry]:
    """Entries of lines; one that a full disk cut short is passed over."""
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and "kind" in entry:
            yield entry


def claim(path: Path, seconds: float = 0.0) -> int | None:
    """Lock a journal, made where it is missing, for `release`; the kernel frees it when the process ends.

    Returns:
        A descriptor, or None while another living process holds it, after trying for so many seconds.
    """
    until = time.monotonic() + seconds
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
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


def last_status(path: Path) -> str:
    """Status that a journal ends with; empty while its process works, or where it was killed."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 4096))
        lines = [line for line in stream.readlines() if line.endswith(b"\n")]
    entry = next(parsed(lines[-1:]), None)
    return str(entry.get("status", "")) if entry and entry["kind"] == "status" else ""


def end_dead(path: Path) -> bool:
    """Write the end of a journal, held by `claim`, whose process was killed: KILLED, at its last line's time.

    Returns:
        Whether the end was missing.
    """
    if last_status(path) in ENDED:
        return False
    times = [entry["time"] for entry in entries_of(path)]
    if not times:
        return False
    with path.open("ab") as stream:
        if path.read_bytes()[-1:] != b"\n":
            stream.write(b"\n")
        for fields in (
            {"kind": "tags", "values": {"drtune.orphaned": "true"}},
            {"kind": "status", "status": "KILLED"},
        ):
            stream.write(json.dumps({**fields, "time": max(times)}).encode() + b"\n")
    return True


class Journal:
    """The writing end; a file that exists is continued.

    Args:
        path: `<folder>/<run>.jsonl`. Copies of artifacts lie beside it in `<run>.files/`.
        header: fields of the first line.

    Raises:
        BlockingIOError: another process writes or ships it.
    """

    def __init__(self, path: Path, header: Entry) -> None:
        self.path = path
        self.files = path.with_suffix(".files")
        self.last_step: dict[str, int] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = claim(path, CLAIM_SECONDS)
        if lock is None:
            raise BlockingIOError(f"{path}: another process holds this journal")
        self._lock = lock
        for entry in entries_of(path):
            if entry["kind"] == "metrics":
                self.last_step.update(
                    {name: max(entry["step"], self.last_step.get(name, -1)) for name in entry["values"]}
                )
        self.continued = path.exists() and path.stat().st_size > 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        if self.continued:
            self._end_torn_line()
        else:
            self.write("run", **header)

    def _end_torn_line(self) -> None:
        """Close the line that a killed machine cut, so that the next one stands alone."""
        size = os.fstat(self._descriptor).st_size
        if os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line in a single write, so that threads and a kill cannot mix or cut lines."""
        line = json.dumps({"kind": kind, "time": time.time_ns() // 1_000_000, **fields})
        os.write(self._descriptor, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file; what is in it stays."""
        os.close(self._descriptor)

    def release(self) -> None:
        """Let others ship it."""
        release(self._lock)


def open_journal(folder: Path, key: str, resume: bool, header: Entry, recorded: bool = True) -> Journal:
    """The journal of a run; where `folder` cannot be written, one in a temporary folder."""
    header = header | {"stage_key": key, "resume": resume}
    try:
        try:
            return Journal(journal_path(folder, key, resume, recorded), header)
        except BlockingIOError as error:
            log.warning("%s; this run gets a new one", error)
            return Journal(journal_path(folder, key, False), header)
    except OSError as error:
        log.warning("the journal goes to a temporary folder: %s", error)
        return Journal(journal_path(Path(tempfile.mkdtemp(prefix="drtune-")), key, False), header)


class Target(Protocol):
    """The store's end of the shipping."""

    def open(self, header: Entry, journal: Path) -> bool:
        """Find or make the run; True if it is new there, so that the whole journal must be sent.

        Raises: any exception while the store cannot be used.
        """

    def send(self, entries: list[Entry]) -> None:
        """Store entries in order; the same entries again must change nothing.

        Raises: any exception while the store cannot be used.
        """


def ship(path: Path, target: Target) -> None:
    """Send every whole line that has not been sent; raises what the target raises, having lost nothing."""
    header = next(entries_of(path), None)
    if header is None:
        return
    if target.open(header, path):
        write_offset(path, 0)
    while True:
        offset = read_offset(path)
        with path.open("rb") as stream:
            stream.seek(offset)
            lines = [line for line in stream.readlines(CHUNK_BYTES) if line.endswith(b"\n")]
        if not lines:
            return
        target.send(list(parsed(lines)))
        write_offset(path, offset + sum(map(len, lines)))


def unsent(path: Path) -> int:
    """Bytes of a journal that no store has taken yet."""
    return path.stat().st_size - read_offset(path)


def read_offset(path: Path) -> int:
    """How many bytes have been sent."""
    try:
        return int(path.with_suffix(".off").read_text())
    except (FileNotFoundError, ValueError):
        return 0


def write_offset(path: Path, offset: int) -> None:
    """Remember how many bytes have been sent."""
    with replacing(path.with_suffix(".off")) as fresh:
        fresh.write_text(f"{offset}\n")


class Shipper(threading.Thread):
    """Ships a journal every few seconds; waits 2, 4, 8 ... 60 s while the store cannot be used."""

    def __init__(self, path: Path, target: Target, every: float = SHIP_EVERY_SECONDS) -> None:
        super().__init__(name="journal shipper", daemon=True)
        self.path, self.target, self.every = path, target, every
        self.first_round = threading.Event()
        self.failures = 0
        self._closing = threading.Event()

    def start(self) -> None:
        """Begin; a fork waits for the first round, for a child inherits the locks of half imported MLflow."""
        until = time.monotonic() + FORK_SECONDS
        os.register_at_fork(before=lambda: self.first_round.wait(max(0.0, until - time.monotonic())))
        super().start()

    def run(self) -> None:
        """Ship until closed; the round after closing is the last, whether it succeeds or not."""
        while True:
            last = self._closing.is_set()
            try:
                ship(self.path, self.target)
            except Exception as error:
                self._failed(error)
            else:
                if self.failures:
                    log.warning("tracking store: answers again, nothing is lost")
                self.failures = 0
            self.first_round.set()
            if last:
                return
            self._closing.wait(min(2.0**self.failures, LONGEST_WAIT_SECONDS) if self.failures else self.every)

    def _failed(self, error: Exception) -> None:
        if not self.failures:
            reason = scrub(f"{type(error).__name__}: {error}").split("\n")[0][:500]
            log.warning("tracking store: %s; the work goes on, the journal keeps all: %s", reason, self.path)
        self.failures += 1

    def close(self, seconds: float) -> bool:
        """Ship the rest, for at most so many seconds; False if something is left for later."""
        self._closing.set()
        if self.ident is None:  # never started
            return False
        self.join(seconds)
        return not self.is_alive() and unsent(self.path) == 0
