import os
import subprocess
import sys
import time

import pytest

from drtune.runs.garbage import OLD_SECONDS, collect_garbage, size_of
from drtune.runs.journal import Journal, write_offset
from drtune.runs.lifecycle import exclusive

KEYS = {name: name * 64 for name in "abcd"}


def checkpoint(root, key, content="state"):
    folder = root / ".drtune/ckpt" / key
    folder.mkdir(parents=True)
    (folder / "lock").write_text("1\n")
    if content:
        (folder / "state.pt").write_text(content)
    return folder


def journal(root, name, key, status, shipped=True):
    made = Journal(root / f".drtune/journal/{name}-1-1.jsonl", {"stage_key": key})
    if status:
        made.write("status", status=status)
    made.close()
    made.release()
    if shipped:
        write_offset(made.path, made.path.stat().st_size)
    return made.path


def collected(root, **kwargs):
    """path -> (kept, why)"""
    return {item.path: (item.kept, item.why) for item in collect_garbage(root, dry_run=False, **kwargs)}


@pytest.fixture
def root(tmp_path):
    return tmp_path


def test_a_dry_run_names_the_same_and_changes_nothing(root):
    checkpoint(root, KEYS["a"], content="")
    journal(root, "one", KEYS["a"], "FINISHED")
    before = sorted((path, path.stat().st_size) for path in root.rglob("*"))
    named = collect_garbage(root, dry_run=True)
    assert sorted((path, path.stat().st_size) for path in root.rglob("*")) == before
    assert [item.path for item in collect_garbage(root, dry_run=False)] == [item.path for item in named]
    assert sum(item.size for item in named) > 0
    assert list((root / ".drtune/ckpt").iterdir()) == list((root / ".drtune/journal").iterdir()) == []
    assert collect_garbage(root, dry_run=False) == []


def test_checkpoints_of_finished_keys_go_and_those_of_stopped_trainings_stay(root):
    in_run_cache, in_journal = checkpoint(root, KEYS["a"]), checkpoint(root, KEYS["b"])
    stopped, used = checkpoint(root, KEYS["c"]), checkpoint(root, KEYS["d"])
    (root / f".dvc/cache/runs/aa/{KEYS['a']}").mkdir(parents=True)
    (root / f".dvc/cache/runs/dd/{KEYS['d']}").mkdir(parents=True)
    journal(root, "b", KEYS["b"], "FINISHED")
    with exclusive(used):
        found = collected(root)
        assert (used / "state.pt").exists()
    assert found[used] == (True, "in use")
    assert not in_run_cache.exists()
    assert not in_journal.exists()
    assert found[stopped][0]
    assert (stopped / "state.pt").exists()
    assert collected(root, unfinished=True)[stopped] == (False, "checkpoint of a stopped training")
    assert not stopped.exists()


def test_journals_go_when_nobody_needs_them(root):
    finished = journal(root, "a", KEYS["a"], "FINISHED")
    finished.with_suffix(".files").mkdir()
    waiting = journal(root, "b", KEYS["b"], "FINISHED", shipped=False)
    cut = journal(root, "c", KEYS["c"], "")
    checkpoint(root, KEYS["d"])
    going_on = journal(root, "d", KEYS["d"], "KILLED")
    over = journal(root, "e", "e" * 64, "KILLED")
    living = Journal(root / ".drtune/journal/f-1-1.jsonl", {})
    found = collected(root)
    assert {path.stem[0] for path, (kept, _) in found.items() if path.suffix == ".jsonl" and not kept} == {
        "a",
        "e",
    }
    for path in (finished, over):
        assert not list(path.parent.glob(f"{path.stem}.*"))
    assert "drtune sync" in found[waiting][1]
    assert "drtune sync" in found[cut][1]
    assert "goes on with it" in found[going_on][1]
    assert found[living.path] == (True, "in use")
    living.close()
    living.release()


def test_what_killed_processes_left_half_made_goes_when_it_is_old(root):
    old = [root / ".mlflow.db.abc12345.half", root / ".drtune/journal/.x.off.abc12345.half"]
    old += [root / ".drtune/downloads/.set.tar.abc12345.half", root / "metrics/.test.json.abc12345.half"]
    old += [root / ".dvc/cache/.drtune-abc12345"]
    young = root / ".mlflow.db.def12345.half"
    for folder in (*old, young):
        folder.mkdir(parents=True)
        (folder / "part").write_text("x" * 100)
    lonely = root / ".drtune/journal/gone-1-1.files"
    lonely.mkdir()
    (root / ".git").mkdir()
    upload = root / "mlruns/drtune/pipeline/1/artifacts/.artifact.uploading.abc12345"
    upload.parent.mkdir(parents=True)
    upload.write_text("x")
    for folder in (*old, upload, root / ".git"):
        os.utime(folder, (time.time() - 2 * OLD_SECONDS,) * 2)
    found = collected(root)
    for folder in (*old, upload, lonely):
        assert not found[folder][0]
        assert not folder.exists()
    assert young.exists()
    assert (root / ".git").exists()
    assert found[root / ".drtune/downloads"][0], "archives are kept"


def test_checkouts_of_killed_experiments_go_unless_a_process_works_there(root):
    left, used = root / ".dvc/tmp/exps/standalone/tmpleft", root / ".dvc/tmp/exps/tmpused"
    for folder in (left, used):
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - 2 * OLD_SECONDS,) * 2)
    worker = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
        cwd=used,
        stdout=subprocess.PIPE,
    )
    worker.stdout.readline()
    try:
        found = collected(root)
    finally:
        worker.kill()
        worker.communicate()
    assert found == {left: (False, "checkout of a killed DVC experiment")}
    assert used.exists()
    assert not left.exists()


def test_sizes(root):
    (root / "a").mkdir()
    (root / "a/b").write_text("12345")
    (root / "a/link").symlink_to(root / "a")
    assert size_of(root / "a/b") == 5
    assert size_of(root / "none") == 0
    assert 5 < size_of(root / "a") < 1000, "a link is not followed"


def test_a_link_among_the_checkpoints_is_left_and_named(tmp_path):
    prey = tmp_path / "prey"
    prey.mkdir()
    (prey / "kept").write_text("kept")
    (tmp_path / ".drtune/ckpt").mkdir(parents=True)
    (tmp_path / ".drtune/ckpt/key").symlink_to(prey)
    (found,) = collect_garbage(tmp_path, dry_run=False, unfinished=True)
    assert (found.kept, found.why) == (True, "a link, which is not followed; remove it by hand")
    assert [path.name for path in prey.iterdir()] == ["kept"]


def test_a_folder_that_no_stage_made_stays_whatever_a_journal_says(root, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "Documents").mkdir()
    (home / "Documents/kept").write_text("kept")
    (root / ".drtune").mkdir()
    (root / ".drtune/ckpt").symlink_to(home)
    journal(root, "one", "Documents", "FINISHED")
    found = collected(root, unfinished=True)
    told = (True, "no checkpoint of a stage; remove it by hand")
    assert found[root / ".drtune/ckpt/Documents"] == told
    assert (home / "Documents/kept").exists()
