"""The journal of a run: one JSON line an event on the local disk, shipped to the store by a thread.

A training writes microseconds-cheap lines and never waits for the store. The shipper sends what lies behind
the byte offset in `<journal>.off` and then moves it. A kill between the two loses and doubles nothing: the
target asks the store what it holds before it sends again. Whoever writes or ships a journal holds its lock,
so a journal whose lock is free belongs to no living process. Kinds of lines: `run` (the first: all that is
needed to make the run in a store), `params`, `tags`, `metrics`, `input`, `artifact`, `status`.
"""

import errno
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from drtune.base.files import replacing
from drtune.runs.lifecycle import claim, release
from drtune.runs.store import answer

log = logging.getLogger(__name__)

Entry = dict[str, Any]
SHIP_EVERY_SECONDS, LONGEST_WAIT_SECONDS = 10.0, 60.0
CHUNK_BYTES = 1 << 20
CLAIM_SECONDS = 10.0
"""How long a stage waits for a journal that `drtune sync` is shipping before it begins one of its own."""
FORK_SECONDS = 30.0
ENDED = ("FINISHED", "FAILED", "KILLED")


def header(experiment: str, name: str, stage: str, tags: Mapping[str, str], **more: Any) -> Entry:
    """The first line of a journal, which `open_journal` completes.

    `more`: `known_by`, the tag that the run of a key has, and what `mlflow_pipeline.pipeline_of` returns.
    """
    return {"experiment": experiment, "name": name, "stage": stage, "tags": dict(tags), **more}


def journal_folder(root: Path) -> Path:
    """Where the journals of a store root are."""
    return root / ".drtune" / "journal"


def spare_folder(folder: Path) -> Path:
    """Where journals go while `folder` cannot be written; `drtune sync` looks there too."""
    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"drtune-{os.getuid()}-{name}"


def _is_ours(folder: Path) -> bool:  # all may write beside it
    found = folder.lstat() if folder.is_dir() and not folder.is_symlink() else None
    return found is not None and (found.st_uid, found.st_mode & 0o77) == (os.getuid(), 0)


def journals_in(root: Path) -> list[Path]:
    """All journals of a store root, oldest first."""
    spare = spare_folder(journal_folder(root))
    places = [journal_folder(root), *([spare] if _is_ours(spare) else [])]
    found = [path for place in places for path in place.glob("*.jsonl") if not path.is_symlink()]
    return sorted(found, key=lambda path: path.stem.split("-")[1:])


def journal_path(folder: Path, key: str, resume: bool, recorded: bool = True) -> Path:
    """File for a run with this stage key: the newest unfinished one if `resume`, else a new one.

    A finished one too is continued where its result was never `recorded` and the work is done again.
    """
    prefix = key[:16] or "nokey"
    if resume and key:
        found = sorted(path for path in folder.glob(f"{prefix}-*.jsonl") if not path.is_symlink())
        for path in found[-1:]:
            statuses = [entry.get("status") for entry in entries_of(path) if entry["kind"] == "status"]
            if header_of(path) and (statuses[-1:] != ["FINISHED"] or not recorded):
                return path
    return folder / f"{prefix}-{time.time_ns():016x}-{os.getpid()}.jsonl"


def entries_of(path: Path) -> Iterator[Entry]:
    """All whole lines of a journal, from its start."""
    if path.exists():
        with path.open("rb") as stream:
            yield from _parsed(line for line in stream if line.endswith(b"\n"))


def _parsed(lines: Iterable[bytes]) -> Iterator[Entry]:
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # a full disk cut it short
            continue
        if isinstance(entry, dict) and "kind" in entry:
            yield entry


def header_of(path: Path) -> Entry | None:
    """The first line of a journal; None where it is missing or torn, so that nothing can be shipped."""
    first = next(entries_of(path), {"kind": ""})
    return first if first["kind"] == "run" else None


def last_status(path: Path) -> str:
    """Status that a journal ends with; empty while its process works, or where it was killed."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 4096))
        lines = [line for line in stream.readlines() if line.endswith(b"\n")]
    entry = next(_parsed(lines[-1:]), {"kind": ""})
    return str(entry.get("status", "")) if entry["kind"] == "status" else ""


def end_dead(path: Path) -> bool:
    """End a journal, held by `claim`, whose process was killed: KILLED, at its last line's time.

    Returns whether the end was missing.
    """
    times = [entry.get("time", 0) for entry in entries_of(path)]
    if last_status(path) in ENDED or not times:
        return False
    orphaned = {"kind": "tags", "values": {"drtune.orphaned": "true"}}
    lines = [{**line, "time": max(times)} for line in (orphaned, {"kind": "status", "status": "KILLED"})]
    with path.open("ab") as stream:
        torn = path.read_bytes()[-1:] != b"\n"
        stream.write(b"\n" * torn + b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return True


class Journal:
    """The writing end of `<folder>/<run>.jsonl`; copies of artifacts lie beside it in `<run>.files/`.

    A file that exists is continued; `first` are the fields of the first line of another.

    Raises:
        BlockingIOError: another process writes or ships it.
    """

    def __init__(self, path: Path, first: Entry) -> None:
        self.path, self.files = path, path.with_suffix(".files")
        self.last_step: dict[str, int] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = claim(path, CLAIM_SECONDS)
        if lock is None:
            raise BlockingIOError(f"{path}: another process holds this journal")
        self._lock = lock
        for entry in entries_of(path):
            for name in entry["values"] if entry["kind"] == "metrics" else ():
                self.last_step[name] = max(entry["step"], self.last_step.get(name, -1))
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
        size = os.fstat(self._descriptor).st_size
        self.continued = size > 0
        self._torn = self.continued and os.pread(self._descriptor, 1, size - 1) != b"\n"
        if not self.continued:
            self.write("run", **first)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line in a single write, so that threads and a kill cannot mix or cut lines.

        Raises OSError where the disk is full, say; the next line stands alone all the same.
        """
        line = json.dumps({"kind": kind, "time": time.time_ns() // 1_000_000, **fields}).encode() + b"\n"
        line, self._torn = b"\n" * self._torn + line, False
        if (written := os.write(self._descriptor, line)) < len(line):
            self._torn = written > 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Close the file; what is in it stays."""
        os.close(self._descriptor)

    def release(self) -> None:
        """Let others ship it."""
        release(self._lock)


def open_journal(folder: Path, key: str, resume: bool, first: Entry, recorded: bool = True) -> Journal:
    """The journal of a run; where `folder` cannot be written, one in the spare folder."""
    first = {**first, "stage_key": key, "resume": resume}
    try:
        try:
            return Journal(journal_path(folder, key, resume, recorded), first)
        except BlockingIOError as error:
            log.warning("%s; this run gets a new one", error)
            return Journal(journal_path(folder, key, False), first)
    except OSError as error:
        spare = spare_folder(folder)
        spare.mkdir(mode=0o700, exist_ok=True)
        spare = spare if _is_ours(spare) else Path(tempfile.mkdtemp(prefix="drtune-"))
        log.warning("the journal goes to the temporary folder %s: %s", spare, error)
        return Journal(journal_path(spare, key, resume, recorded), first)


class Target(Protocol):
    """The store's end of the shipping; both calls raise any exception while it cannot be used."""

    def open(self, header: Entry, journal: Path) -> bool:
        """Find or make the run; True if it is new there, so that the whole journal must be sent."""

    def send(self, entries: list[Entry]) -> None:
        """Store entries in order; the same entries again must change nothing."""


def ship(path: Path, target: Target) -> None:
    """Send every whole line that has not been sent; raises what the target raises, having lost nothing."""
    if (first := header_of(path)) is None:
        return
    if target.open(first, path):
        write_offset(path, 0)
    while True:
        offset = _offset(path)
        with path.open("rb") as stream:
            stream.seek(offset)
            lines = [line for line in stream.readlines(CHUNK_BYTES) if line.endswith(b"\n")]
        if not lines:
            return
        target.send(list(_parsed(lines)))
        write_offset(path, offset + sum(map(len, lines)))


def unsent(path: Path) -> int:
    """Bytes of a journal that no store has taken yet."""
    return path.stat().st_size - _offset(path)


def _offset(path: Path) -> int:
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
        self.path, self.target, self.every, self.failures = path, target, every, 0
        self.first_round, self._closing = threading.Event(), threading.Event()

    def start(self) -> None:
        """Begin; a fork waits for the first round, for a child inherits the locks of half imported MLflow."""
        until = time.monotonic() + FORK_SECONDS
        os.register_at_fork(before=lambda: self.first_round.wait(max(0.0, until - time.monotonic())))
        super().start()

    def run(self) -> None:
        """Ship until closed; the round after closing is the last, whether it succeeds or not."""
        last = False
        while not last:
            last = self._closing.is_set()
            try:
                ship(self.path, self.target)
                if self.failures:
                    log.warning("tracking store: answers again, nothing is lost")
                self.failures = 0
            except Exception as error:
                if not self.failures:
                    kept = "the work goes on, the journal keeps all"
                    log.warning("tracking store: %s; %s: %s", answer(error), kept, self.path)
                self.failures += 1
            self.first_round.set()
            if not last:
                wait = min(2.0**self.failures, LONGEST_WAIT_SECONDS) if self.failures else self.every
                self._closing.wait(wait)

    def close(self, seconds: float) -> bool:
        """Ship the rest, for at most so many seconds; False if something is left for later."""
        self._closing.set()
        if self.ident is None:  # never started
            return False
        self.join(seconds)
        return not self.is_alive() and unsent(self.path) == 0
