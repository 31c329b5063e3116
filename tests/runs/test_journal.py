import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest

from drtune.runs.journal import (
    Journal,
    Shipper,
    end_dead,
    entries_of,
    journal_path,
    last_status,
    open_journal,
    ship,
    unsent,
)
from drtune.runs.lifecycle import claim, release

HEADER = {"name": "train"}


class Store:
    """A store in memory, which can be away, or lose the answer after taking the lines."""

    def __init__(self):
        self.lines, self.opened, self.new = [], 0, False
        self.away = self.lost_answer = False
        self.calls = threading.Semaphore(0)

    def open(self, header, journal):
        self.calls.release()
        self.opened += 1
        if self.away:
            raise ConnectionError("http://me:secret@host is away")
        new, self.new = self.new, False
        return new

    def send(self, entries):
        self.lines += [entry for entry in entries if entry not in self.lines]
        if self.lost_answer:
            self.lost_answer = False
            raise TimeoutError

    def steps(self):
        return [entry["step"] for entry in self.lines if entry["kind"] == "metrics"]


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "j" / "run.jsonl", HEADER)
    yield opened
    opened.close()


def fill(journal, steps):
    for step in steps:
        journal.write("metrics", step=step, values={"loss": 0.5})


def test_lines_are_read_back_in_order(journal):
    fill(journal, range(3))
    first, *rest = entries_of(journal.path)
    assert (first["kind"], first["name"]) == ("run", "train")
    assert [entry["step"] for entry in rest] == [0, 1, 2]
    assert abs(first["time"] / 1000 - time.time()) < 60


def test_lines_of_several_threads_stay_whole(journal):
    threads = [threading.Thread(target=fill, args=(journal, range(200))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.path.read_text().splitlines()) == 801
    assert len(list(entries_of(journal.path))) == 801


def test_a_continued_journal_knows_its_last_steps(journal):
    fill(journal, [0, 1, 2])
    journal.write("metrics", step=1, values={"val": 1})
    journal.release()
    again = Journal(journal.path, HEADER)
    again.close()
    assert again.continued
    assert not journal.continued
    assert again.last_step == {"loss": 2, "val": 1}
    assert sum(entry["kind"] == "run" for entry in entries_of(journal.path)) == 1


def test_a_line_that_was_cut_costs_only_itself(journal):
    fill(journal, [0])
    with journal.path.open("ab") as stream:
        stream.write(b'{"kind": "metrics", "st')
    journal.release()
    again = Journal(journal.path, HEADER)
    fill(again, [1])
    again.close()
    store = Store()
    ship(journal.path, store)
    assert store.steps() == [0, 1]
    assert unsent(journal.path) == 0


def test_a_line_that_a_full_disk_cuts_costs_only_itself(journal, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:10]))
    with pytest.raises(OSError, match="No space left on device"):
        fill(journal, [0])
    monkeypatch.undo()
    fill(journal, [1])
    assert [entry["step"] for entry in entries_of(journal.path) if entry["kind"] == "metrics"] == [1]


def test_a_line_being_written_waits(journal):
    fill(journal, [0])
    with journal.path.open("ab") as stream:
        stream.write(b'{"kind": "metrics", "step": 1, ')
    store = Store()
    ship(journal.path, store)
    assert store.steps() == [0]
    with journal.path.open("ab") as stream:
        stream.write(b'"values": {"loss": 1}}\n')
    ship(journal.path, store)
    assert store.steps() == [0, 1]


def test_shipping_goes_on_where_it_ended(journal, monkeypatch):
    monkeypatch.setattr("drtune.runs.journal.CHUNK_BYTES", 200)
    store = Store()
    fill(journal, range(20))
    ship(journal.path, store)
    fill(journal, range(20, 30))
    ship(journal.path, store)
    assert store.steps() == list(range(30))


def test_nothing_is_lost_or_doubled_when_the_store_fails(journal):
    store = Store()
    fill(journal, range(3))
    store.away = True
    with pytest.raises(ConnectionError):
        ship(journal.path, store)
    store.away, store.lost_answer = False, True
    with pytest.raises(TimeoutError):
        ship(journal.path, store)
    ship(journal.path, store)
    assert store.steps() == [0, 1, 2]


def test_a_store_that_does_not_know_the_run_gets_all_of_it(journal):
    fill(journal, range(3))
    ship(journal.path, Store())
    other = Store()
    other.new = True
    ship(journal.path, other)
    assert other.steps() == [0, 1, 2]


def test_the_shipper_ships_while_work_goes_on_and_at_the_end(journal):
    store = Store()
    shipper = Shipper(journal.path, store, every=0.01)
    fill(journal, range(3))
    shipper.start()
    assert shipper.first_round.wait(10)
    assert store.steps() == [0, 1, 2]
    fill(journal, range(3, 5))
    assert shipper.close(10)
    assert store.steps() == list(range(5))


def test_the_shipper_outlives_a_store_that_is_away(journal, caplog):
    store = Store()
    store.away = True
    shipper = Shipper(journal.path, store, every=0.01)
    shipper.start()
    assert shipper.first_round.wait(10)
    assert caplog.text.count("the work goes on, the journal keeps all") == 1
    assert "http://host is away" in caplog.text
    assert "secret" not in caplog.text
    fill(journal, [0])
    store.away = False
    assert shipper.close(10)
    assert store.steps() == [0]
    assert "answers again" in caplog.text


def test_closing_does_not_wait_for_a_store_that_is_away(journal):
    store = Store()
    store.away = True
    shipper = Shipper(journal.path, store)
    shipper.start()
    shipper.first_round.wait(10)
    before = time.monotonic()
    assert not shipper.close(10)
    assert time.monotonic() - before < 2
    assert not shipper.is_alive()
    assert unsent(journal.path) > 0


def test_closing_gives_up_on_a_store_that_hangs(journal):
    hang = threading.Event()
    store = Store()
    store.send = lambda entries: hang.wait(30)
    shipper = Shipper(journal.path, store)
    shipper.start()
    before = time.monotonic()
    assert not shipper.close(0.1)
    assert time.monotonic() - before < 5
    hang.set()
    shipper.join(10)


def test_waits_double_up_to_a_minute(journal, monkeypatch):
    waits = []
    store = Store()
    store.away = True
    shipper = Shipper(journal.path, store)

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 8:
            shipper._closing.set()

    monkeypatch.setattr(shipper._closing, "wait", wait)
    shipper.run()
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


def test_which_journal_is_continued(tmp_path):
    def made(key, *statuses):
        opened = open_journal(tmp_path, key, False, HEADER)
        for status in statuses:
            opened.write("status", status=status)
        opened.close()
        opened.release()
        return opened.path

    key = "k" * 64
    first = made(key, "KILLED")
    assert journal_path(tmp_path, key, resume=True) == first
    assert journal_path(tmp_path, key, resume=False) != first
    assert not journal_path(tmp_path, "o" * 64, resume=True).exists()
    running = made(key)
    assert journal_path(tmp_path, key, resume=True) == running
    made(key, "KILLED", "RUNNING", "FINISHED")
    assert not journal_path(tmp_path, key, resume=True).exists()
    assert not journal_path(tmp_path, "", resume=True).exists()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_a_folder_that_cannot_be_written_is_no_fault(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = open_journal(Path("/proc/self/drtune"), "", False, HEADER)
    opened.close()
    assert "the journal goes to the temporary folder" in caplog.text
    assert json.loads(opened.path.read_text())["name"] == "train"
    assert opened.path.parent.parent == tmp_path
    assert opened.path.parent.stat().st_mode & 0o777 == 0o700


def test_one_process_at_a_time_holds_a_journal(journal, monkeypatch):
    monkeypatch.setattr("drtune.runs.journal.CLAIM_SECONDS", 0.1)
    assert claim(journal.path) is None
    with pytest.raises(BlockingIOError, match="another process holds this journal"):
        Journal(journal.path, HEADER)
    journal.release()
    journal.release()
    held = claim(journal.path)
    assert held is not None
    release(held)
    journal._lock = -1


def test_a_journal_that_is_being_shipped_is_not_waited_for_long(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("drtune.runs.journal.CLAIM_SECONDS", 0.1)
    first = open_journal(tmp_path, "k" * 64, True, HEADER)
    second = open_journal(tmp_path, "k" * 64, True, HEADER)
    assert second.path != first.path
    assert "this run gets a new one" in caplog.text
    for opened in (first, second):
        opened.close()
        opened.release()


def test_a_lock_on_a_journal_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    path.touch()
    lock = fcntl.flock

    def removed_before(descriptor, how):
        monkeypatch.undo()
        path.unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    held = claim(path)
    assert os.path.samestat(os.fstat(held), path.stat())
    release(held)


def test_the_end_of_a_killed_journal_is_written_once(journal):
    fill(journal, range(3))
    with journal.path.open("ab") as stream:
        stream.write(b'{"kind": "metr')
    assert last_status(journal.path) == ""
    assert end_dead(journal.path)
    assert not end_dead(journal.path)
    *_, step, tags, status = entries_of(journal.path)
    assert (last_status(journal.path), status["time"]) == ("KILLED", step["time"])
    assert tags["values"] == {"drtune.orphaned": "true"}
    journal.write("status", status="RUNNING")
    assert end_dead(journal.path)


def test_a_finished_journal_goes_on_where_its_result_was_never_recorded(tmp_path):
    opened = open_journal(tmp_path, "k" * 64, True, HEADER)
    opened.write("status", status="FINISHED")
    opened.close()
    opened.release()
    assert journal_path(tmp_path, "k" * 64, resume=True) != opened.path
    assert journal_path(tmp_path, "k" * 64, resume=True, recorded=False) == opened.path
