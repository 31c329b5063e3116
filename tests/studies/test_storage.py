import logging
import random
import signal
import socket
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

import drtune
from drtune.base.errors import StudyError
from drtune.studies import storage
from drtune.studies.storage import open_storage, patiently, storage_url, turn
from drtune.studies.study import Study

PROJECT = str(Path(drtune.__file__).parents[1])
PASSWORD = "v3ry-s3cret"
FIRST_USE = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {PROJECT!r})
from drtune.studies.storage import open_storage
Path(f"ready-{{sys.argv[2]}}").touch()
while not Path("go").exists():
    time.sleep(0.001)
storage = open_storage(sys.argv[1])
print(len(storage.get_all_studies()), "studies")
"""
COUNTS = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {PROJECT!r})
from drtune.studies.storage import open_storage, turn
storage = open_storage(sys.argv[1])
Path(f"ready-{{sys.argv[2]}}").touch()
while not Path("go").exists():
    time.sleep(0.001)
for _ in range(5):
    with turn(storage):
        seen = int(Path("count").read_text())
        time.sleep(0.02)
        Path("count").write_text(str(seen + 1))
"""
HOLDS = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {PROJECT!r})
from drtune.studies.storage import open_storage, turn
with turn(open_storage(sys.argv[1])):
    Path("held").touch()
    time.sleep(600)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """Address of an empty storage of either kind."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url")
    return request.getfixturevalue("postgres").new()


@pytest.fixture
def opened():
    """Open a storage for this test alone."""
    storages = []

    def open_one(url):
        storages.append(open_storage(url))
        return storages[-1]

    yield open_one
    for one in storages:
        one.engine.dispose()


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(tmp_path, monkeypatch):
    monkeypatch.delenv(storage.VARIABLE, raising=False)
    assert storage_url(tmp_path) == f"sqlite:///{tmp_path}/.drtune/optuna.db"
    monkeypatch.setenv(storage.VARIABLE, "postgresql+psycopg://u:p@h/d")
    assert storage_url(tmp_path) == "postgresql+psycopg://u:p@h/d"
    assert storage_url(tmp_path, "sqlite:///studies/mine.db") == f"sqlite:///{tmp_path}/studies/mine.db"
    assert storage_url(tmp_path, "sqlite:////elsewhere/mine.db") == "sqlite:////elsewhere/mine.db"


def test_a_new_file_is_complete_and_lets_readers_and_writers_work_side_by_side(tmp_path, opened):
    path = tmp_path / "new" / "a folder ü" / "optuna.db"
    assert opened(f"sqlite:///{path}").get_all_studies() == []
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert opened(f"sqlite:///{path}").get_all_studies() == []


def test_a_file_is_not_there_before_it_is_complete(tmp_path, monkeypatch):
    def killed(url):
        Path(url.removeprefix("sqlite:///")).write_text("half made")
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "RDBStorage", killed)
    with pytest.raises(KeyboardInterrupt):
        open_storage(f"sqlite:///{tmp_path}/optuna.db")
    assert [path.name for path in tmp_path.iterdir()] == ["optuna.db.lock"]


ALLOWED = "allowed: sqlite:///FILE or postgresql+psycopg://USER@HOST:PORT/DATABASE"
CLOSED = 9  # discard: nobody listens there
FAULTS = {
    f"mysql://me:{PASSWORD}@h/d": f"storage mysql://h/d: no storage for studies; {ALLOWED}",
    "sqlite://": f"storage sqlite://: no storage for studies; {ALLOWED}",
    "studies.db": f"storage studies.db: no storage for studies; {ALLOWED}",
    f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:{CLOSED}/d": (
        f"storage postgresql+psycopg://127.0.0.1:{CLOSED}/d: cannot be used: "
        f"postgresql+psycopg://127.0.0.1:{CLOSED}/d does not answer: [Errno 111] Connection refused; "
        "start the database, or name another with --storage"
    ),
    f"postgresql+psycopg://me:x/{PASSWORD}@h/d": (
        f"storage postgresql+psycopg://h/d: cannot be read as an address; {ALLOWED}; "
        "write / and @ in a password as %2F and %40"
    ),
    f"postgresql+psycopg://me:{PASSWORD}@h:port/d?password={PASSWORD}": (
        f"storage postgresql+psycopg://h:port/d?password=***: cannot be read as an address; {ALLOWED}; "
        "write / and @ in a password as %2F and %40"
    ),
    "sqlite:///FOLDER/text.db": (
        "storage sqlite:///FOLDER/text.db: cannot be used: file is not a database; "
        "put a whole, writable copy in its place, or name another with --storage"
    ),
    "sqlite:///FOLDER": (
        "storage sqlite:///FOLDER: cannot be used: unable to open database file; name another with --storage"
    ),
    "sqlite:///FOLDER/text.db/optuna.db": (
        "storage sqlite:///FOLDER/text.db/optuna.db: cannot be used: "
        "[Errno 17] File exists: 'FOLDER/text.db'; name another with --storage"
    ),
}


@pytest.mark.parametrize("url", FAULTS)
def test_what_cannot_be_a_storage_is_named_with_its_remedy_and_without_its_password(url, tmp_path):
    (tmp_path / "text.db").write_text("no database, " * 9)
    with pytest.raises(StudyError) as caught:
        open_storage(url.replace("FOLDER", str(tmp_path)))
    assert str(caught.value).replace(str(tmp_path), "FOLDER") == FAULTS[url]
    assert (tmp_path / "text.db").read_text() == "no database, " * 9


def test_a_driver_that_is_missing_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}/d"
        with pytest.raises(StudyError) as caught:
            open_storage(f"postgresql+psycopg://me:{PASSWORD}@{address}")
        what = f"storage postgresql+psycopg://{address}: needs the package psycopg, which is not here"
        assert str(caught.value) == f"{what}; pip install 'psycopg[binary]'"
        with pytest.raises(StudyError, match="needs the package psycopg2, which is not here; allowed: "):
            open_storage(f"postgresql+psycopg2://me:{PASSWORD}@{address}")


def test_a_database_that_the_server_does_not_have(postgres):
    with pytest.raises(StudyError) as caught:
        open_storage(postgres.url("nowhere"))
    assert 'database "nowhere" does not exist; start the database, or name another' in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_tables_of_another_program_are_left_alone(url):
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        if url.startswith("sqlite"):
            for name in sqlalchemy.inspect(engine).get_table_names():
                connection.execute(sqlalchemy.text(f"DROP TABLE {name}"))
        for name in ("alembic_version", "experiments", "runs"):
            connection.execute(sqlalchemy.text(f"CREATE TABLE {name} (number INTEGER)"))
    with pytest.raises(StudyError) as caught:
        open_storage(url)
    what = "holds the tables of another program (alembic_version, experiments, runs, …)"
    assert f"{what}; studies need a database of their own" in str(caught.value)
    assert sqlalchemy.inspect(engine).get_table_names() == ["alembic_version", "experiments", "runs"]
    engine.dispose()


def test_tables_of_another_optuna_are_refused_with_its_own_remedy(sqlite_url):
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    connection.close()
    with pytest.raises(StudyError, match=r"^storage sqlite:.*optuna storage upgrade"):
        open_storage(sqlite_url)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_four_first_uses_at_once(kind, tmp_path, spawn, request, wait_for):
    url = f"sqlite:///{tmp_path}/fresh/optuna.db"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").new()
    processes = [spawn(FIRST_USE, url, number) for number in range(4)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 4)
    (tmp_path / "go").touch()
    assert [(process.wait(), process.said) for process in processes] == [(0, "0 studies\n")] * 4


def test_turns_are_taken_one_after_another(url, tmp_path, spawn, wait_for):
    (tmp_path / "count").write_text("0")
    processes = [spawn(COUNTS, url, number) for number in range(3)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 3)
    (tmp_path / "go").touch()
    assert [process.wait() for process in processes] == [0, 0, 0], [process.said for process in processes]
    assert (tmp_path / "count").read_text() == "15"


def test_a_turn_ends_with_its_process_and_opening_does_not_wait_for_it(
    url, tmp_path, spawn, opened, wait_for, monkeypatch
):
    holder = spawn(HOLDS, url)
    wait_for((tmp_path / "held").exists)
    mine = opened(url)
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    monkeypatch.setattr(storage, "TURN_SECONDS", 5.0)
    with turn(mine):
        assert mine.get_all_studies() == []


@pytest.mark.parametrize("ending", [None, KeyError("mine"), SystemExit(143)])
def test_a_server_that_goes_away_in_a_turn_does_not_hide_how_it_ends(postgres, opened, ending):
    mine = opened(postgres.new())
    caught = None
    try:
        with turn(mine):
            postgres.stop()
            if ending is not None:
                raise ending
    except BaseException as error:
        caught = error
    finally:
        postgres.start()
    assert caught is ending
    with turn(mine):
        assert mine.get_all_studies() == []


def away(times, fault):
    """A call that fails so often before it succeeds."""
    left = [fault] * times

    def call(value):
        if left:
            raise left.pop()
        return value

    return call


LOCKED = OperationalError("SELECT", {}, sqlite3.OperationalError("database is locked"))


def test_a_storage_that_is_away_is_asked_again_and_that_is_said_once(monkeypatch, caplog):
    waits = []
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    with caplog.at_level(logging.WARNING):
        assert patiently(away(6, LOCKED), "value") == "value"
    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    (said,) = caplog.messages
    assert said.endswith("database is locked; trying again for 600 s")


def test_a_storage_that_does_not_come_back_ends_the_wait_without_its_password(monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.0)
    reason = OperationalError("SELECT", {}, Exception(f"no answer from postgresql://me:{PASSWORD}@h/d\nmore"))
    fault = StorageInternalError("An exception is raised during the commit.")
    fault.__cause__ = reason
    with pytest.raises(StudyError) as caught:
        patiently(away(1, fault), "value")
    assert str(caught.value) == (
        "the storage of the study does not come back: (builtins.Exception) no answer from postgresql://h/d"
    )


def test_a_server_that_is_not_there_yet_is_waited_for(postgres, monkeypatch, caplog):
    url = postgres.new()
    postgres.stop()
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: postgres.start())
    with caplog.at_level(logging.WARNING):
        opened = patiently(open_storage, url)
    assert opened.get_all_studies() == []
    opened.engine.dispose()
    (said,) = caplog.messages
    assert said.startswith(f"storage of the study: storage postgresql+psycopg://127.0.0.1:{postgres.port}/")
    assert said.endswith("trying again for 600 s")


def test_an_address_that_cannot_be_one_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(storage.time, "sleep", pytest.fail)
    with pytest.raises(StudyError, match="no storage for studies"):
        patiently(open_storage, "mysql://h/d")


def test_a_fault_of_the_caller_is_not_tried_again():
    call = away(2, ValueError("mine"))
    with pytest.raises(ValueError, match="mine"):
        patiently(call, 1)
    with pytest.raises(ValueError, match="mine"):
        patiently(call, 1)
    assert patiently(call, 1) == 1


# --- what is there but broken


@pytest.fixture
def used(make_study, end):
    """The file of a storage with three complete trials, and its bytes."""
    made = end(make_study(), 0.5, 0.25, 0.75)
    made.storage.engine.dispose()
    path = Path(made.storage.url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path, path.read_bytes()


def refusal(path):
    with pytest.raises(StudyError) as caught:
        Study(open_storage(f"sqlite:///{path}"), "s")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("kept", [100, 3 * 4096, 0.5, -4096])
def test_a_truncated_file_is_refused_in_one_sentence_and_not_waited_for(used, kept):
    path, whole = used
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    text = refusal(path)
    assert text.startswith(f"storage sqlite:///{path}: cannot be used: ")
    assert "put a whole, writable copy in its place, or name another with --storage" in text
    with pytest.raises(StudyError) as caught:
        patiently(open_storage, f"sqlite:///{path}")
    assert not isinstance(caught.value, storage.StorageAwayError)


@pytest.mark.parametrize("seed", range(8))
def test_a_file_with_other_bytes_in_it_never_ends_in_a_traceback(used, seed):
    draws = random.Random(seed)
    path, whole = used
    spoilt = bytearray(whole)
    for _ in range(4 ** draws.randint(1, 6)):
        spoilt[draws.randrange(100 if seed % 2 else 4096, len(spoilt))] = draws.randrange(256)
    path.write_bytes(spoilt)
    with suppress(StudyError):
        Study(open_storage(f"sqlite:///{path}"), "s").standings()
    path.write_bytes(draws.randbytes(len(whole)))
    assert "file is not a database" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM study_directions",
        "DROP TABLE trial_values",
        "DELETE FROM study_user_attributes WHERE key = 'token'",
        "UPDATE study_user_attributes SET value_json = '{\"a\": 1}' WHERE key = 'design'",
        "UPDATE study_user_attributes SET value_json = '{' WHERE key = 'design'",
    ],
)
def test_a_study_of_which_parts_are_lost_says_so(used, change):
    path, _ = used
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(change)
        connection.commit()
    text = refusal(path)
    assert text.startswith("study 's': the storage holds only parts of it (")
    assert text.endswith("; put a copy of the storage back, or begin another study with --name")


def test_a_file_that_cannot_be_written_is_refused_at_once(used, monkeypatch):
    path, _ = used
    connect = sqlite3.connect
    monkeypatch.setattr(
        storage.sqlite3, "connect", lambda path, **_: connect(f"file:{path}?mode=ro", uri=True)
    )
    assert "cannot be used: attempt to write a readonly database; put a whole, writable copy" in refusal(path)


def test_a_refusal_that_lasts_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(storage.time, "sleep", pytest.fail)
    readonly = OperationalError(
        "INSERT", {}, sqlite3.OperationalError("attempt to write a readonly database")
    )
    with pytest.raises(StudyError, match="does not come back: .* attempt to write a readonly database"):
        patiently(away(1, readonly), "value")
