import json
import shutil
import subprocess
from dataclasses import replace

import pytest
from ruamel.yaml import YAML

from drtune.base.errors import TrackingError, UntrustedError
from drtune.runs.restore import Restored, changed_packages, holds, restore, stage_run_of


def worktrees(toy):
    return toy("git", "worktree", "list").count("\n")


def test_a_dirty_run_of_an_experiment_that_is_gone_comes_back(toy, store, place):
    (run,) = toy.runs()
    assert run.tags["dvc.exp_name"] == "gone"
    assert run.tags["git.dirty"] == "true"
    restored = restore(store, run, place)
    assert "FACTOR = 10\n" in (place / "toy_stage.py").read_text()
    assert "scale: 7" in (place / "params.yaml").read_text()
    assert json.loads((place / "data/raw/numbers.json").read_text()) == [2, 3]
    assert json.loads((place / "out/result.json").read_text()) == [140, 210]
    assert (place / "side").read_text() == "s", "a dependency that only this folder has"
    assert restored.missing == ("score.json",), "DVC does not cache it"
    assert restored.packages == ()
    assert restored.command == f"cd {place} && dvc repro --force --single-item make"
    assert toy("git", "status", "--short") == "", "the workspace stays as it is"
    status = subprocess.run(
        ["dvc", "status", "make"], cwd=place, env=toy.environment, capture_output=True, text=True
    )
    assert status.stdout.split() == ["make:", "changed", "outs:", "deleted:", "score.json"]


def test_a_pipeline_run_stands_for_its_newest_stage(toy, store):
    (run,) = toy.runs()
    whole = replace(run, tags={"drtune.kind": "pipeline", "drtune.run.make": run.run_id})
    assert stage_run_of(store, whole).run_id == run.run_id
    assert stage_run_of(store, run) is run
    with pytest.raises(TrackingError, match="is no run of a stage and names none; see `drtune runs`"):
        stage_run_of(store, replace(run, tags={}))


def test_what_cannot_be_restored_is_said_before_anything_is_made(toy, store, place):
    (run,) = toy.runs()
    place.mkdir()
    with pytest.raises(TrackingError, match="exists already; `git worktree remove --force .*another folder"):
        restore(store, run, place)
    place.rmdir()
    for change, text in (
        (
            {"git.commit": "0" * 40, "git.remote": "host:x"},
            "its commit 0+ is not in .*; fetch it from host:x or",
        ),
        ({"git.commit": ""}, "was made without a git commit"),
    ):
        with pytest.raises(TrackingError, match=text):
            restore(store, replace(run, tags={**run.tags, **change}), place)
    assert not place.exists()


def test_a_run_without_files_leaves_nothing(toy, store, place):
    before = worktrees(toy)
    stored = toy.runs()[0]
    files = next(toy.folder.glob(f"mlruns/**/{stored.run_id}/artifacts/provenance"))
    for hidden, text in (
        (files, "holds no provenance/params.yaml"),
        (files / "stage.lock.json", "made outside DVC"),
    ):
        hidden.rename(aside := hidden.with_name(f"{hidden.name}.aside"))
        try:
            with pytest.raises(TrackingError, match=text):
                restore(store, stored, place)
        finally:
            aside.rename(hidden)
        assert not place.exists()
        assert worktrees(toy) == before


def test_code_that_was_too_long_to_record_is_told(toy, store, place):
    run = toy.runs()[0]
    patch = next(toy.folder.glob(f"mlruns/**/{run.run_id}/artifacts/provenance/code.patch"))
    text = patch.read_text()
    patch.write_text("# the difference from HEAD exceeds 10 bytes and is not recorded\n")
    with pytest.raises(TrackingError, match="its uncommitted code was not recorded: # the difference"):
        restore(store, run, place)
    patch.write_text(text)
    assert not place.exists()


def test_data_that_no_cache_holds_is_named_and_nothing_is_left(toy, store, place, tmp_path):
    run, before = toy.runs()[0], worktrees(toy)
    shutil.move(toy.folder / ".dvc/cache/files", tmp_path / "files")
    shutil.move(toy.folder / "side", tmp_path / "side")
    try:
        with pytest.raises(TrackingError, match="holds what the run read as data/raw, side; fetch it into"):
            restore(store, run, place)
    finally:
        shutil.move(tmp_path / "files", toy.folder / ".dvc/cache/files")
        shutil.move(tmp_path / "side", toy.folder / "side")
    assert not place.exists()
    assert worktrees(toy) == before


def test_a_patch_that_does_not_fit_is_told_and_nothing_is_left(toy, store, place):
    run, before = toy.runs()[0], worktrees(toy)
    toy("git", "checkout", "-q", "--detach")
    toy("git", "rm", "-q", "--cached", "toy_stage.py")
    toy("git", "commit", "-q", "-m", "without the stage")
    other = toy("git", "rev-parse", "HEAD").strip()
    toy("git", "checkout", "-q", "-f", "main")
    with pytest.raises(TrackingError, match="`git .* apply .*code.patch` failed: .*toy_stage.py"):
        restore(store, replace(run, tags={**run.tags, "git.commit": other}), place)
    assert not place.exists()
    assert worktrees(toy) == before


def test_content_is_compared(tmp_path):
    (tmp_path / "a").write_text("1")
    assert holds(tmp_path / "a", "c4ca4238a0b923820dcc509a6f75849b")
    assert holds(tmp_path / "a", "")
    assert not holds(tmp_path / "a", "0" * 32)
    assert not holds(tmp_path / "b", "")


def test_changed_packages_are_named(tmp_path):
    (tmp_path / "list").write_text("pytest==0.1\nno-such-thing==2\nbroken line\n")
    now, gone = changed_packages(tmp_path / "list")
    assert now.startswith("pytest ")
    assert now.endswith("(then 0.1)")
    assert gone == "no-such-thing absent (then 2)"
    assert changed_packages(tmp_path / "none") == ()


LINK = """diff --git a/{name} b/{name}
deleted file mode 100644
diff --git a/{name} b/{name}
new file mode 120000
--- /dev/null
+++ b/{name}
@@ -0,0 +1 @@
+{target}
\\ No newline at end of file
"""


def test_a_patch_that_makes_a_link_lets_nothing_be_written_through_it(toy, store, place, held, tmp_path):
    prey = tmp_path / "prey"
    prey.write_text("kept")
    text = (toy.folder / "params.yaml").read_text()
    removed = "".join(f"-{line}\n" for line in text.splitlines())
    gone = LINK.replace(
        "deleted file mode 100644\n",
        "deleted file mode 100644\n--- a/{name}\n+++ /dev/null\n@@ -1 +0,0 @@\n{removed}",
    )
    (held / "code.patch").write_text(gone.format(name="params.yaml", target=prey, removed=removed))
    with pytest.raises(UntrustedError, match="'params.yaml' leads out of .* by a link"):
        restore(store, toy.runs()[0], place)
    assert prey.read_text() == "kept"
    assert not place.exists()


def test_a_patch_changes_no_setting_of_dvc(toy, store, place, held):
    name, line = ".dvc/config", "[core]\n+    remote = elsewhere"
    old = (toy.folder / name).read_text()
    assert old == ""
    patch = (held / "code.patch").read_text()
    (held / "code.patch").write_text(
        f"{patch}diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n@@ -0,0 +1,2 @@\n+{line}\n"
    )
    restore(store, toy.runs()[0], place)
    assert (place / name).read_text() == old


@pytest.mark.parametrize("file", ["stage.lock.json", "dvc.lock"])
def test_results_that_lie_outside_are_refused(toy, store, place, held, tmp_path, file):
    (tmp_path / "prey").write_text("kept")
    lock = YAML(typ="safe").load(held / file)
    entry = lock["stages"]["fetch"] if file == "dvc.lock" else lock
    entry["outs"][0]["path"] = str(tmp_path / "prey")
    (held / file).write_text(json.dumps(lock))
    with pytest.raises(UntrustedError, match="prey' is no path below"):
        restore(store, toy.runs()[0], place)
    assert (tmp_path / "prey").read_text() == "kept"


@pytest.mark.parametrize("folder", ["../..", "/", "a/../../b"])
def test_a_tag_that_names_a_folder_outside_is_refused(toy, store, place, folder):
    (run,) = toy.runs()
    with pytest.raises(UntrustedError, match="is no path below .*; refused"):
        restore(store, replace(run, tags={**run.tags, "drtune.folder": folder}), place)
    assert not place.exists()


def test_the_command_to_type_is_quoted(tmp_path):
    made = Restored(tmp_path / "a b", "make; rm -rf x", {}, (), ())
    assert made.command == f"cd '{tmp_path}/a b' && dvc repro --force --single-item 'make; rm -rf x'"
