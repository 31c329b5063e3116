import io
import sys

import pytest

from drtune.runs import console
from drtune.runs.console import Bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves by hand."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_are_few_and_say_rate_and_rest(clock, capsys):
    with Bar("train", "images", scale=25) as bar:
        bar(0, 120)
        for step in range(1, 121):
            clock[0] += 0.25
            bar.note = f"epoch {step // 2}"
            bar(step, 120)
    assert capsys.readouterr().out.splitlines() == [
        "train: 500/3,000 images  100 images/s  0:00:25 left  epoch 10",
        "train: 1,000/3,000 images  100 images/s  0:00:20 left  epoch 20",
        "train: 1,500/3,000 images  100 images/s  0:00:15 left  epoch 30",
        "train: 2,000/3,000 images  100 images/s  0:00:10 left  epoch 40",
        "train: 2,500/3,000 images  100 images/s  0:00:05 left  epoch 50",
        "train: 3,000/3,000 images  100 images/s  epoch 60",
    ]


def test_a_rate_counts_from_where_the_work_goes_on(clock, capsys):
    with Bar("train", "images") as bar:
        bar(900, 1000)
        clock[0] += 10
        bar(950, 1000)
    assert capsys.readouterr().out == "train: 950/1,000 images  5 images/s  0:00:10 left\n"


def test_an_unknown_total_shows_what_is_done(clock, capsys):
    with Bar("fetching", "MB", scale=1e-6) as bar:
        bar(0, 0)
        clock[0] += 6
        bar(12_000_000, 0)
    assert capsys.readouterr().out.splitlines()[-1] == "fetching: 12 MB  2 MB/s"


def test_nothing_is_shown_for_work_that_never_begins(capsys):
    with Bar("fetching", "MB"):
        pass
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_one_bar_with_words_under_it(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with Bar("train", "images") as bar:
        bar(0, 40)
        for step in range(1, 41):
            clock[0] += 1
            bar.note = f"epoch {step}"
            bar(step, 40)
    text = terminal.getvalue()
    assert text.count("\n") < 2 * 42
    assert "━━━" in text
    assert "40/40 images  1 images/s" in text
    assert "epoch 40" in text


def test_an_unknown_total_does_not_make_a_line_of_every_call(clock, capsys):
    with Bar("fetching a.tar", "MB", scale=1e-6) as bar:
        for done in range(1, 13):
            bar(done * 10_000_000, 0)
            clock[0] += 0.5
    assert capsys.readouterr().out == "fetching a.tar: 110 MB  20 MB/s\n"


def test_the_next_file_has_a_rate_of_its_own(clock, capsys):
    with Bar("fetching a.tar", "MB", scale=1e-6) as bar:
        bar(0, 100_000_000)
        clock[0] += 1
        bar(100_000_000, 100_000_000)
        bar.label = "fetching b.tar"
        bar(1_000_000, 6_000_000)
        clock[0] += 5
        bar(6_000_000, 6_000_000)
    assert capsys.readouterr().out.splitlines() == [
        "fetching a.tar: 100/100 MB  100 MB/s",
        "fetching b.tar: 6/6 MB  1 MB/s",
    ]


def test_an_exception_ends_the_bar_and_goes_on(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")

    def work():
        with Bar("train", "images") as bar:
            bar(1, 4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert "\x1b[?25h" in terminal.getvalue(), "the cursor is shown again"


def test_one_bar_serves_two_pieces_of_work(clock, capsys):
    with Bar("train sp", "images") as bar:
        for label in ("prepare sp", ""):
            for done in range(3):
                clock[0] += 6
                bar(done, 2, label)
    said = capsys.readouterr().out
    assert said.index("prepare sp: 2/2 images") < said.index("train sp: 2/2 images")


def test_one_bar_serves_two_pieces_of_work_on_a_terminal(clock, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with Bar("train sp", "images") as bar:
        shown = []
        for label in ("prepare sp", ""):
            bar(0, 2, label)
            clock[0] += 6
            bar(2, 2, label)
            shown += [(task.description, task.completed) for task in bar.bar.tasks]
    assert shown == [("prepare sp", 2), ("train sp", 2)]
