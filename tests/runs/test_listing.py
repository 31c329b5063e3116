import json

import pytest
from rich.console import Console

from drtune.base.errors import TrackingError
from drtune.runs.listing import Row, as_json, as_table, chosen, code_of, headline, runs_of_keys
from drtune.runs.run_store import StoredRun

A, B = "a" * 64, "b" * 64


def run(name="r1", stage="train", key=A, start=1, metrics=None, **tags):
    tags = {"drtune.stage": stage, "drtune.stage_key": key, "git.commit": "c" * 40, **tags}
    return StoredRun(name, f"{stage} dr_tune", "FINISHED", start, "1", tags, {}, metrics or {})


class Store:
    """Answers the two filters that the table asks."""

    def __init__(self, *runs):
        self.runs = runs

    def search(self, text=""):
        wanted = text.partition("'")[2].rstrip("%'")
        return (found for found in self.runs if found.key.startswith(wanted))

    def link(self, found):
        return f"http://host/{found.run_id}"


def test_runs_of_a_commit_come_from_any_commit_and_missing_ones_are_shown():
    store = Store(run("r2", **{"git.commit": "d" * 40}), run("r1"))
    rows = runs_of_keys(store, {"train": A, "evaluate": B, "pretrain/train": "e" * 64})
    found = [(row.stage, row.run and row.run.run_id) for row in rows]
    assert found == [("train", "r2"), ("train", "r1"), ("evaluate", None)]


def test_runs_are_chosen_by_key_and_method():
    store = Store(run("r3", "extract", "e" * 64), run("r2", "evaluate", B), run("r1"))
    names = [
        [row.run.run_id for row in chosen(store, *how)] for how in (("", "", 9), ("bb", "", 9), ("", "", 2))
    ]
    assert names == [["r3", "r2", "r1"], ["r2"], ["r3", "r2"]]
    assert [row.run.run_id for row in chosen(store, "", "dr_tune", 9)] == ["r2", "r1"]
    assert chosen(store, "", "finetune", 9) == []
    with pytest.raises(TrackingError, match="--key xyz: expected hexadecimal digits"):
        chosen(store, "xyz", "", 9)


def test_a_row_shows_where_a_run_comes_from():
    metrics = {"test.accuracy": 0.875278, "test.nll": 0.5, "best_val_accuracy": 1.0}
    made = run("r" * 32, metrics=metrics, **{"git.dirty": "true", "dvc.exp_name": "lively-name"})
    console = Console(width=240)
    with console.capture() as shown:
        console.print(as_table([Row("train", A, made), Row("evaluate", B, None)], Store()))
    assert code_of(made) == "cccccccc+ lively-name"
    assert headline(made) == "test.accuracy 0.8753  test.nll 0.5"
    first, second = shown.get().splitlines()[1:]
    assert all(part in first for part in (code_of(made), headline(made), "rrrrrrrr ", "FINISHED", "dr_tune"))
    assert "no run" in second


def test_json_holds_all_of_it():
    rows = [Row("train", A, run(metrics={"test.nll": 0.25})), Row("evaluate", B, None)]
    first, second = json.loads(as_json(rows, Store()))
    assert (first["run"], first["metrics"], first["link"]) == ("r1", {"test.nll": 0.25}, "http://host/r1")
    assert second == {"stage": "evaluate", "key": B, "run": None}


def test_words_of_the_store_are_neither_markup_nor_steering():
    evil = run(**{"dvc.exp_name": "[bold]\x9b1m"})
    rows = [Row("[/x]\x1b]0;a\x07", A, evil), Row("[/y]\x1b[2J", "e" * 64, None)]
    console = Console(width=240, force_terminal=True, color_system=None)
    with console.capture() as shown:
        console.print(as_table(rows, Store()))
    for text in (r"[/x]\x1b]0;a\x07", r"[/y]\x1b[2J", r"[bold]\x9b1m"):
        assert text in shown.get()
    assert "\x1b[2J" not in shown.get()
