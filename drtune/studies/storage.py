"""Where studies are kept: a sqlite file, or PostgreSQL for several machines.

Optuna's first use of a database by two processes at once can spoil it, and whoever asks for the next trial
must see all trials before it: both are done in turn, under a lock that every worker of the storage respects.
"""

import logging
import os
import re
import sqlite3
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DatabaseError, InterfaceError, SQLAlchemyError

from drtune.base.errors import StudyError
from drtune.base.files import replacing
from drtune.runs.store import check_reachable, scrub, sqlite_path, use_write_ahead_log

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

Storage = RDBStorage

VARIABLE = "OPTUNA_STORAGE"
"""Environment: the address of the storage, where the command line gives none."""
TURN_SECONDS = 120.0
PATIENCE_SECONDS = 600.0
"""How long a training waits for a storage that has gone away."""
HEARTBEAT_SECONDS, GRACE_SECONDS = 30, 900
"""A trial of another machine is lost when nothing was heard of it for so long: longer than a storage may be
away, else whoever comes first after that takes all others for dead."""
CONNECT_SECONDS = 10
LASTING = ("malformed", "not a database", "readonly", "read-only", "no such table", "no such column")
"""What a database says that does not mend itself."""

warnings.filterwarnings("ignore", category=ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with Study.optimize")
optuna.logging.set_verbosity(optuna.logging.WARNING)


class StorageAwayError(StudyError):
    """A storage that does not answer; it may, later."""


def storage_url(root: Path, given: str = "") -> str:
    """Address of the storage: as given, else OPTUNA_STORAGE, else a sqlite file of the project."""
    url = given or os.environ.get(VARIABLE, "") or f"sqlite:///{root / '.drtune' / 'optuna.db'}"
    path = sqlite_path(url)
    return f"sqlite:///{root / path}" if path else url


def open_storage(url: str) -> Storage:
    """The storage at an address, made where it is new; a StudyError where it is of no use.

    That is a StorageAwayError where it may be of use later.
    """
    shown, path = without_secrets(url), sqlite_path(url)
    kinds = "sqlite:///FILE or postgresql+psycopg://USER@HOST:PORT/DATABASE"
    away, other = "" if path else "start the database, or ", "name another with --storage"
    if path is None and not url.startswith("postgresql"):
        raise StudyError(f"storage {shown}: no storage for studies; allowed: {kinds}")
    try:
        sqlalchemy.make_url(url)
        check_reachable(url)
    except ValueError:  # its text may hold a part of the password
        remedy = f"allowed: {kinds}; write / and @ in a password as %2F and %40"
        raise StudyError(f"storage {shown}: cannot be read as an address; {remedy}") from None
    except ConnectionError as fault:
        raise StorageAwayError(f"storage {shown}: cannot be used: {fault}; {away}{other}") from None
    try:
        if path:
            prepare_file(path)
        return connected(url, shown)
    except ModuleNotFoundError as fault:
        remedy = f"pip install '{fault.name}[binary]'" if fault.name == "psycopg" else f"allowed: {kinds}"
        what = f"needs the package {fault.name}, which is not here"
        raise StudyError(f"storage {shown}: {what}; {remedy}") from None
    except RuntimeError as fault:  # a schema of another version of Optuna
        raise StudyError(f"storage {shown}: {scrub(str(fault))}") from None
    except (OSError, Timeout, sqlite3.Error, SQLAlchemyError, StorageInternalError, ValueError) as fault:
        kind = StudyError if lasts(fault) else StorageAwayError
        first = "put a whole, writable copy in its place, or " if lasts(fault) else away
        raise kind(f"storage {shown}: cannot be used: {reason_of(fault)}; {first}{other}") from None


def without_secrets(url: str) -> str:
    """An address as it may be shown; what lies before its last @ may be a password with a slash."""
    return scrub(re.sub(r"://.*@", "://", url))


def reason_of(fault: BaseException) -> str:
    """What a database says, in one line; Optuna's own text around it guesses wrong."""
    inner = fault.__cause__ if isinstance(fault, StorageInternalError) else None
    return scrub(str(inner or fault)).split("\n")[0].strip()


def lasts(fault: BaseException) -> bool:
    """Whether waiting mends nothing: the database is broken, or may not be written."""
    return isinstance(fault, ValueError) or any(word in reason_of(fault) for word in LASTING)


def prepare_file(path: Path) -> None:
    """Make a sqlite storage complete before it gets its name, so that a kill leaves none half made.

    One that is there must be whole and writable, else an OSError or a sqlite3.Error says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with FileLock(f"{path}.lock", timeout=TURN_SECONDS):
            if not path.exists():
                with replacing(path) as fresh:
                    RDBStorage(f"sqlite:///{fresh}").engine.dispose()
    use_write_ahead_log(path)
    with closing(sqlite3.connect(path, timeout=TURN_SECONDS)) as connection:
        connection.execute("BEGIN")
        connection.execute(
            "CREATE TABLE probe (number)"
        )  # refused where nothing can be written; never committed
        if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {' '.join(found.split())}")


def connected(url: str, shown: str) -> Storage:
    """An open storage whose connections are tried before they are used again.

    One process at a time while the tables may not be there yet; a sqlite file is never without them.
    """
    file = sqlite_path(url)
    # Optuna stores heartbeats in a connection's local time, which machines and seasons disagree about
    postgres = {"connect_timeout": CONNECT_SECONDS, "options": "-c timezone=UTC"}
    arguments = {"pool_pre_ping": True, "connect_args": {"timeout": 60} if file else postgres}
    engine = sqlalchemy.create_engine(url, **arguments)
    try:
        with nullcontext() if file else advisory_lock(engine, "drtune study tables"):
            refuse_foreign(engine, shown)
            return RDBStorage(
                url,
                engine_kwargs=arguments,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
    finally:
        engine.dispose()


def refuse_foreign(engine: sqlalchemy.Engine, shown: str) -> None:
    """Leave a database of MLflow's, say, alone: both would write the version of their tables to one place."""
    tables = sorted(sqlalchemy.inspect(engine).get_table_names())
    if tables and "studies" not in tables:
        what = f"holds the tables of another program ({', '.join(tables[:3])}, …)"
        raise StudyError(f"storage {shown}: {what}; studies need a database of their own")


@contextmanager
def turn(storage: Storage) -> Iterator[None]:
    """Hold the storage alone, against all workers on all machines."""
    if path := sqlite_path(storage.url):
        with FileLock(f"{path}.lock", timeout=TURN_SECONDS):
            yield
    else:
        with advisory_lock(storage.engine, "drtune study"):
            yield


@contextmanager
def advisory_lock(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    """PostgreSQL's own lock; the server frees it when the transaction ends, however it ends."""
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({zlib.crc32(name.encode())})"))
        try:
            yield
        finally:
            with suppress(SQLAlchemyError):  # of a server that is gone; must not hide what ended the turn
                connection.rollback()


def patiently(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call; while the storage is away, try again for minutes, so that no training is lost with it.

    A StudyError where it did not come back, or cannot.
    """
    until, wait = time.monotonic() + PATIENCE_SECONDS, 1.0
    while True:
        try:
            return call(*args, **kwargs)
        except (DatabaseError, InterfaceError, StorageInternalError, StorageAwayError, Timeout) as fault:
            reason = reason_of(fault)
            if lasts(fault) or time.monotonic() > until:
                raise StudyError(f"the storage of the study does not come back: {reason}") from None
            if wait == 1.0:
                log.warning("storage of the study: %s; trying again for %g s", reason, PATIENCE_SECONDS)
        time.sleep(wait)
        wait = min(2 * wait, 15.0)
