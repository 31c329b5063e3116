"""Which tracking store is used, whether it answers, and how it may be named where people read."""

import http.client
import os
import re
import socket
import sqlite3
import ssl
import urllib.error
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

PROBE_SECONDS = 3.0
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
USERINFO = re.compile(
    r"([A-Za-z][\w+.-]{0,30}://)(?:[^/\s'\"]{0,300}|[^/\s@:'\"]{1,99}:(?!\d*/)[^\s@'\"]{0,300})@"
)
"""A name and a password before a host, also a password that holds a slash."""
FIELD = re.compile(
    r"(?i)((?:passwd|password|pwd|token|secret|account_?key|access_?key|"
    r"[?&;][\w.-]{0,40}(?:key|sig|signature|auth|credential))=|\bbearer )[^&\s'\"]+"
)
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 block a call on a dead server for 4 minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # prints the address with its password
    "GIT_PYTHON_REFRESH": "quiet",
}


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
    return sqlite_uri(root / path) if path else uri


def sqlite_uri(path: Path) -> str:
    """Address of a sqlite file, as SQLAlchemy reads it: `?` begins a query there, `%` an encoded letter."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def sqlite_path(uri: str) -> Path | None:
    """File of a sqlite address; None for every other address and for a database in memory."""
    match = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(unquote(match[1])) if match and match[1] != ":memory:" else None


def for_mlflow(uri: str) -> str:
    """A store's address as MLflow is given it.

    MLflow makes the folder of a sqlite file with its encoded letters as they stand, beside the true one. Seen
    from the folder of a stage, the path to the store holds none.
    """
    path = sqlite_path(uri)
    return sqlite_uri(Path(os.path.relpath(path))) if path and "%" in uri else uri


def is_server(uri: str) -> bool:
    """Whether an MLflow server, not a database, is addressed: it then keeps the artifacts too."""
    return uri.startswith(("http://", "https://", "databricks"))


def scrub(text: str) -> str:
    """`text` without the `user:password@` and the secret query fields of any address in it."""
    return FIELD.sub(r"\1***", USERINFO.sub(r"\1", text))


def check_reachable(uri: str) -> None:
    """Return at once if the store answers or is a local file.

    Raises:
        ConnectionError: no answer within 3 s. MLflow itself would wait half a minute and more.
    """
    address = urlsplit(uri)
    if address.scheme in ("http", "https"):
        probe_http(scrub(uri).rstrip("/") + "/health")
    elif (port := DATABASE_PORTS.get(address.scheme.split("+")[0])) and address.hostname:
        try:
            socket.create_connection((address.hostname, address.port or port), PROBE_SECONDS).close()
        except OSError as error:
            raise ConnectionError(f"{scrub(uri)} does not answer: {error}") from None


def probe_http(url: str) -> None:
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

    Raises:
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
