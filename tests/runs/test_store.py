import contextlib
import http.server
import os
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from drtune.runs import store


def test_the_default_is_the_file_that_plain_mlflow_ui_opens():
    assert store.store_uri(Path("/p")) == "sqlite:////p/mlflow.db"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://me:pw@host:5000", "http://me:pw@host:5000"),
        ("sqlite:///runs/a.db", "sqlite:////p/runs/a.db"),
        ("sqlite:////abs/a.db", "sqlite:////abs/a.db"),
        ("postgresql://u:p@h/db", "postgresql://u:p@h/db"),
        ("", "sqlite:////p/mlflow.db"),
    ],
)
def test_the_environment_names_another_store(given, used, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert store.store_uri(Path("/p")) == used


def test_defaults_leave_what_the_user_set(monkeypatch):
    for name in store.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    store.set_defaults()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("failed: http://me:p@ss@host:5000/api?x=1", "failed: http://host:5000/api?x=1"),
        (
            "postgresql+psycopg://u:p@h/db?user=u&password=x&a=b",
            "postgresql+psycopg://h/db?user=u&password=***&a=b",
        ),
        ("a@b.c wrote https://host/x@y", "a@b.c wrote https://host/x@y"),
    ],
)
def test_credentials_are_scrubbed(text, shown):
    assert store.scrub(text) == shown


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.server.code)
        self.end_headers()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def server(code):
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as httpd:
        httpd.code, httpd.seen = code, []
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield httpd
        finally:
            httpd.shutdown()
            thread.join()


@pytest.mark.parametrize("code", [200, 401, 404, 500])
def test_any_answer_shows_a_living_server(code):
    with server(code) as httpd:
        store.check_reachable(f"http://me:pw@127.0.0.1:{httpd.server_port}/")
    assert httpd.seen == [("/health", None)]


def test_a_gateway_without_its_server_is_no_store():
    with server(503) as httpd, pytest.raises(ConnectionError, match="answers 503"):
        store.check_reachable(f"http://127.0.0.1:{httpd.server_port}")


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_closed_port_is_no_store(scheme):
    with pytest.raises(ConnectionError, match=r"://127.0.0.1:9/.* does not answer") as caught:
        store.check_reachable(f"{scheme}://me:secret@127.0.0.1:9/x")
    assert "secret" not in str(caught.value)


def test_a_server_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(store, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        before = time.monotonic()
        with pytest.raises(ConnectionError, match="does not answer"):
            store.check_reachable(f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert time.monotonic() - before < 3


def test_local_files_need_no_answer():
    store.check_reachable("sqlite:////nowhere/mlflow.db")


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "a.db").write_text("no database " * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        store.use_write_ahead_log(tmp_path / "a.db")


def test_write_ahead_log_stays_set(tmp_path):
    store.use_write_ahead_log(tmp_path / "a.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////p/mlflow.db", "mlflow ui  then  http://127.0.0.1:5000/"),
        (
            "sqlite:////q/a.db",
            "mlflow ui --backend-store-uri 'sqlite:////q/a.db'  then  http://127.0.0.1:5000/",
        ),
        ("http://me:pw@host:8080/base/", "http://host:8080/base/"),
        (
            "postgresql://me:pw@h/db",
            "mlflow ui --backend-store-uri 'postgresql://h/db'  then  http://127.0.0.1:5000/",
        ),
    ],
)
def test_links(uri, shown):
    page = "#/experiments/1/runs/abc?workflowType=machine_learning"
    assert store.link(uri, Path("/p"), "1", "abc") == shown + page


@pytest.mark.parametrize(
    "text",
    [
        "https://h/x?access_token=s3cret", "https://h/?api_key=s3cret&b=1", "https://h/?X-Amz-Signature=s3cret",
        "https://h/a?b=1&sig=s3cret", "postgresql://me:p/s3cret@h/db", "AccountKey=s3cret", "BEARER s3cret",
        "https://me:s3cret@h/a@b", "aws_secret_access_key=s3cret",
    ],
)  # fmt: skip
def test_keys_of_many_services_are_scrubbed(text):
    assert "s3cret" not in store.scrub(text)


@pytest.mark.parametrize("text", ["a" * 10**5, "x://a:b" * 5000, "?a" * 10**5, "http://a:" + "b" * 10**5])
def test_scrubbing_takes_no_longer_than_the_text(text):
    started = time.monotonic()
    assert store.scrub(text) == text
    assert time.monotonic() - started < 10


def test_an_address_with_a_port_stays_whole():
    text = "http://127.0.0.1:5000/#/experiments/1/runs/a?workflowType=machine_learning me@example.org"
    assert store.scrub(text) == text
