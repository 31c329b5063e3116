"""Which tracking store is used, whether it answers, and how it may be named where people read."""

import http.client
import os
import re
import socket
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from drtune.base.errors import TrackingError

PROBE_SECONDS = 3.0
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 block a call on a dead server for 4 minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # prints the address with its password
    "GIT_PYTHON_REFRESH": "quiet",
}
REMEDIES = {
    "malformed|not a database|no such table|no such column": (
        "the file is damaged: move it away with its -wal and -shm files, or bring back a copy"
    ),
    "readonly|read-only|ermission denied": "get the right to write it",
    "out-of-date database schema|Can't locate revision": "copy the file, then `mlflow db upgrade {uri}`",
    "disk is full|No space left|quota": "make room",
}
"""What an answer holds -> what helps."""
ELSE = "start or mend the store, or change MLFLOW_TRACKING_URI"
SAFE = "then `drtune sync`; nothing is lost: the journals in .drtune/journal keep the runs until `drtune gc`"
FOREIGN = ("mlflow", "sqlalchemy", "sqlite3", "filelock")
"""Packages whose exceptions, like those of the system, are answers of a store."""
REFUSED = "INVALID_PARAMETER_VALUE"


def set_defaults() -> None:
    """Set MLflow's environment, where the user has not; call before mlflow is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def store_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI if set, else the file that plain `mlflow ui` in `root` opens.

    A relative sqlite path means the store root, not the folder of a temporary experiment.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or "sqlite:///mlflow.db"
    path = sqlite_path(uri)
    return f"sqlite:///{root / path}" if path else uri


def sqlite_path(uri: str) -> Path | None:
    """File of a sqlite address; None for every other address and for a database in memory."""
    match = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(match[1]) if match and match[1] != ":memory:" else None


def is_server(uri: str) -> bool:
    """Whether an MLflow server, not a database, is addressed: it then keeps the artifacts too."""
    return uri.startswith(("http://", "https://", "databricks"))


def scrub(text: str) -> str:
    """`text` without the `user:password@` and the secret query fields of any address in it."""
    text = re.sub(r"([A-Za-z][\w+.-]*://)[^/\s'\"]*@", r"\1", text)
    return re.sub(r"(?i)\b(password|passwd|token|sslpassword)=[^&\s'\"]+", r"\1=***", text)


def check_reachable(uri: str) -> None:
    """Return at once if the store answers or is a local file.

    ConnectionError: no answer within 3 s. MLflow itself would wait half a minute and more.
    """
    address = urlsplit(uri)
    if address.scheme in ("http", "https"):
        _probe_http(scrub(uri).rstrip("/") + "/health")
    elif (port := DATABASE_PORTS.get(address.scheme.split("+")[0])) and address.hostname:
        try:
            socket.create_connection((address.hostname, address.port or port), PROBE_SECONDS).close()
        except OSError as error:
            raise ConnectionError(f"{scrub(uri)} does not answer: {error}") from None


def _probe_http(url: str) -> None:
    """Ask for one page; any answer but a gateway's 502 to 504 shows life. No credentials are sent."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # MLflow checks certificates itself
    try:
        urllib.request.urlopen(url, timeout=PROBE_SECONDS, context=trusting).close()
    except urllib.error.HTTPError as answer:
        answer.close()
        if answer.code in (502, 503, 504):
            raise ConnectionError(f"{url} answers {answer.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url} does not answer: {error}") from None


def use_write_ahead_log(database: Path) -> None:
    """Let readers and writers of a sqlite store work side by side; stays set in the file.

    sqlite3.DatabaseError: the file is no database.
    """
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(database, timeout=2)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def link(uri: str, root: Path, experiment: str, run: str) -> str:
    """Where a person looks at a run: a server's address, or the command to start one and the address then."""
    page = f"#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"
    if is_server(uri):
        return f"{scrub(uri).rstrip('/')}/{page}"
    here = sqlite_path(uri) == root / "mlflow.db"
    command = "mlflow ui" if here else f"mlflow ui --backend-store-uri '{scrub(uri)}'"
    return f"{command}  then  http://127.0.0.1:5000/{page}"


@contextmanager
def in_words(uri: str) -> Iterator[None]:
    """Raise what a store answers instead as a `TrackingError`: what, where, what to do, what is safe."""
    try:
        yield
    except Exception as fault:
        if type(fault).__module__.split(".")[0] not in FOREIGN and not isinstance(fault, OSError):
            raise
        where, words = scrub(uri), f"{scrub(uri)}: {answer(fault)}"
        if not is_refusal(fault):
            remedy = next((text for sign, text in REMEDIES.items() if re.search(sign, str(fault))), ELSE)
            words += f"; {remedy.format(uri=where)}, {SAFE}"
        raise TrackingError(words) from fault


def answer(error: BaseException) -> str:
    """What a store said: its first sentence, without passwords."""
    lines = [line for line in scrub(str(error.__cause__ or error)).splitlines() if line.strip()]
    said = next((line for line in lines if not line.startswith("(raised as")), repr(error))
    return re.split(r"\. [A-Z]", said, maxsplit=1)[0][:500]


class Worded:
    """An `MlflowClient` whose every call raises a `TrackingError` where the store cannot do it."""

    def __init__(self, client: Any, uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        @wraps(call)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with in_words(self._uri):
                return call(*args, **kwargs)

        return wrapped


def is_refusal(error: BaseException) -> bool:
    """Whether the store understood and said no, which no later try changes."""
    return getattr(error.__cause__ or error, "error_code", "") == REFUSED
