import signal
import sys

import pytest

from drtune.base.errors import DataError
from drtune.runs import stage_log
from drtune.runs.lifecycle import Stopped
from drtune.runs.stage_log import captured


@pytest.fixture
def kept(tmp_path):
    """Run a block and return what the log holds and how often it was to be shipped."""

    def run(work, fault=()):
        path, grown = tmp_path / "journal.files" / "stage.log", []
        before = sys.stdout, sys.stderr
        try:
            with captured(path, lambda: grown.append(path.read_text())):
                work()
        except fault:
            pass
        assert (sys.stdout, sys.stderr) == before
        return path.read_text(), grown

    return run


def test_both_streams_are_kept_and_still_shown(kept, capsys):
    def work():
        print("bank: 50 images")
        print("careful", file=sys.stderr)

    text, grown = kept(work)
    assert text == "bank: 50 images\ncareful\n"
    assert grown == [text]
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("bank: 50 images\n", "careful\n")


def test_frames_of_a_bar_and_colours_are_not_kept(kept):
    def work():
        sys.stdout.write("\x1b[1A\x1b[2Ktrain ━━━ 3/10")
        sys.stdout.write("\r 12 %")
        sys.stdout.write("\x1b[?25l")
        sys.stdout.write("\x1b[1;31mred\x1b[0m\n")

    assert kept(work)[0] == "red\n"


def test_passwords_are_not_kept(kept):
    assert "hunter2" not in kept(lambda: print("https://me:hunter2@example.org?token=hunter2"))[0]


def test_how_it_ended_stands_at_the_end(kept):
    def broken():
        raise ZeroDivisionError("no rows")

    def refused():
        raise DataError("images: empty; remedy")

    def stopped():
        raise Stopped(signal.SIGTERM)

    text = kept(broken, ZeroDivisionError)[0]
    assert "Traceback" in text
    assert text.endswith("ZeroDivisionError: no rows\n")
    text = kept(refused, DataError)[0]
    assert text.endswith("\nimages: empty; remedy\n")
    assert kept(stopped, Stopped)[0].endswith("\nstopped by SIGTERM\n")


def test_a_long_stage_ships_its_log_while_it_works(kept, monkeypatch):
    monkeypatch.setattr(stage_log, "SHIP_EVERY_SECONDS", 0.0)
    _, grown = kept(lambda: print("a"))
    assert grown[0].startswith("a")
    assert len(grown) >= 2


def test_a_log_that_cannot_be_written_does_not_fail_the_stage(kept, monkeypatch):
    def full(text):
        raise OSError(28, "No space left on device")

    def work():
        monkeypatch.setattr(stage_log, "scrub", full)
        print("goes on")

    assert kept(work)[0] == ""


def test_the_stream_s_own_features_stay(kept, capsys):
    seen = []
    kept(lambda: seen.append((sys.stdout.isatty(), sys.stdout.encoding)))
    assert seen == [(False, sys.stdout.encoding)]
