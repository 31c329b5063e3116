import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from hashlib import md5
from pathlib import Path

import pytest

import drtune
from drtune.base.errors import ConfigError, TrackingError
from drtune.base.yaml import read_yaml
from drtune.runs import run_cache
from drtune.runs.outs import describe_out
from drtune.runs.run_cache import is_recorded, record_result
from drtune.runs.stage_key import cached_object, current_stage_key, replace_param, stage_key

WORK = """
import os
from pathlib import Path
from ruamel.yaml import YAML
rate = YAML(typ="safe", pure=True).load(Path("params.yaml"))["train"]["lr"]
with open(os.environ["RAN"], "a") as log:
    log.write(f"{rate}\\n")
for name in ("models/weights.bin", "models/history.json", "models/parts/deep ü.txt", "summary.json"):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(f"{name} {rate} {Path('data.txt').read_text()}")
"""
STAGES = """
stages:
  train:
    cmd: PYTHON work.py
    deps: [work.py, data.txt]
    params: [train, seed]
    outs: [summary.json, models]
"""
FIRST, TRIAL = "train: {lr: 0.1, deep: {x: 1}}\nseed: 0\n", "train: {lr: 1e-05, deep: {x: 1}}\nseed: 3\n"
ENTRY = {
    "cmd": "python work.py",
    "deps": [{"path": "data.txt", "hash": "md5", "md5": "ab", "size": 4}],
    "params": {"params.yaml": {"train": {"lr": 0.1}}},
    "outs": [{"path": "models"}, {"path": "summary.json"}],
}
OUTS = {"models/weights.bin": "w", "models/parts/deep.txt": "d", "models/same.txt": "w", "summary.json": "{}"}


@pytest.fixture
def repository(tmp_path, git, monkeypatch):
    """A DVC repository whose one stage has run once under FIRST, and says in a file outside when it runs."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name, text in {"work.py": WORK, "data.txt": "data", "params.yaml": FIRST}.items():
        (folder / name).write_text(text)
    (folder / "dvc.yaml").write_text(STAGES.replace("PYTHON", sys.executable))
    monkeypatch.setenv("PYTHONPATH", str(Path(drtune.__file__).parents[1]))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("RAN", str(tmp_path / "ran.txt"))
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    dvc(folder, "repro")
    assert ran(tmp_path) == ["0.1"]
    return folder


@pytest.fixture
def bare(tmp_path):
    """What DVC's settings need of a repository, and outs that lie elsewhere."""
    (tmp_path / "bare/.dvc").mkdir(parents=True)
    write(tmp_path / "outs", OUTS)
    return tmp_path / "bare"


def dvc(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran(folder):
    return (folder / "ran.txt").read_text().split()


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder):
    """Path below the folder -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outs_of(folder):
    return contents(folder / "models") | {"summary.json": (folder / "summary.json").read_bytes()}


def state(folder):
    """Path below the folder -> bytes, rights and time of change."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for path in paths}


def results(folder, key):
    """The names of a key's results, the newest last."""
    return sorted(
        os.listdir(folder / key[:2] / key), key=lambda name: (folder / key[:2] / key / name).stat().st_mtime
    )


def made_by_hand(repository, there, params):
    """The stage's outs, made in a folder of their own under other parameters."""
    write(there, {"params.yaml": params})
    for name in ("work.py", "data.txt"):
        shutil.copy(repository / name, there)
    subprocess.run([sys.executable, "work.py"], cwd=there, check=True)
    return there


def test_dvc_takes_a_recorded_result_and_runs_nothing(repository, tmp_path):
    cache = repository / ".dvc/cache"
    locked = read_yaml(repository / "dvc.lock")["stages"]["train"]
    first = stage_key(locked)
    trial, there = deepcopy(locked), made_by_hand(repository, tmp_path / "trial", TRIAL)
    for name, value in {"train.lr": 1e-05, "seed": 3}.items():
        replace_param(trial["params"], name, value)
    key = stage_key(locked, {"train.lr": 1e-05, "seed": 3})
    assert (is_recorded(repository, first), is_recorded(repository, key)) == (True, False)

    assert record_result(repository, trial, there) == key == stage_key(trial)
    assert is_recorded(repository, key)
    assert {path.stat().st_mode & 0o777 for path in cache.glob("files/md5/*/*")} == {0o444}
    assert outs_of(repository) != outs_of(there)

    (repository / "params.yaml").write_text(TRIAL)
    said = dvc(repository, "repro")
    assert "Stage 'train' is cached - skipping run, checking out outputs" in said
    assert ran(tmp_path) == ["0.1", "1e-05"], "only once, by hand"
    assert outs_of(repository) == outs_of(there)
    now = read_yaml(repository / "dvc.lock")["stages"]["train"]
    assert now["params"] == trial["params"]
    assert now["outs"] == [
        {"path": name, **describe_out(there / name)} for name in ("models", "summary.json")
    ]
    assert json.loads(dvc(repository, "status", "--json")) == {}
    assert stage_key(now) == key

    # A result that is not checked out is unused to DVC.
    (repository / "params.yaml").write_text(FIRST)
    assert "is cached" in dvc(repository, "repro")
    dvc(repository, "gc", "--workspace", "--force")
    assert (is_recorded(repository, first), is_recorded(repository, key)) == (True, False)
    names = results(cache / "runs", key)
    assert record_result(repository, trial, there) == key
    assert is_recorded(repository, key)
    assert results(cache / "runs", key) == names
    (listing,) = (cached_object(cache, out["md5"]) for out in now["outs"] if out["path"] == "models")
    cached_object(cache, json.loads(listing.read_text())[0]["md5"]).unlink()
    assert not is_recorded(repository, key), "a file of a folder is gone"


def test_what_is_written_is_what_dvc_writes(repository):
    cache = repository / ".dvc/cache"
    by_dvc, before = contents(cache), state(cache)
    (name,) = (Path(path).name for path in by_dvc if path.startswith("runs"))
    identity = current_stage_key(repository, "train")
    entry = {**identity.entry, "outs": [{"path": path} for path in identity.outs]}
    assert record_result(repository, entry, repository) == identity.key
    assert state(cache) == before, "the same again changes nothing"

    shutil.rmtree(cache)
    assert not is_recorded(repository, identity.key)
    record_result(repository, entry, repository)
    assert results(cache / "runs", identity.key) == [name]
    assert contents(cache) == by_dvc
    assert {path: mode for path, (_, mode, _) in state(cache).items()} == {
        path: mode for path, (_, mode, _) in before.items()
    }
    assert {path.name for path in cache.iterdir()} == {"files", "runs"}


def test_the_newest_result_counts(repository, tmp_path):
    runs, mine, by_dvc = repository / ".dvc/cache/runs", tmp_path / "mine", tmp_path / "by_dvc"
    entry = read_yaml(repository / "dvc.lock")["stages"]["train"]
    key = stage_key(entry)
    shutil.copytree(repository / "models", by_dvc / "models")
    shutil.copy(repository / "summary.json", by_dvc)
    write(mine, {"models/weights.bin": "mine", "summary.json": "mine"})
    (old,) = results(runs, key)
    os.utime(runs / key[:2] / key / old, (4e9, 4e9))  # written under a clock that goes ahead

    for folder in (mine, by_dvc):
        assert outs_of(repository) != outs_of(folder)
        assert record_result(repository, entry, folder) == key
        assert len(results(runs, key)) == 2, "another result has a file beside, the same one none"
        (repository / "dvc.lock").unlink()  # DVC prefers the result that it names
        assert "is cached" in dvc(repository, "repro")
        assert outs_of(repository) == outs_of(folder)
    assert results(runs, key)[-1] == old
    assert ran(tmp_path) == ["0.1"]


def test_a_file_that_cannot_be_read_is_written_again(bare, tmp_path):
    key = record_result(bare, ENTRY, tmp_path / "outs")
    (file,) = (bare / ".dvc/cache/runs" / key[:2] / key).iterdir()
    whole = file.read_bytes()
    file.write_text("cmd: [")
    assert not is_recorded(bare, key)
    record_result(bare, ENTRY, tmp_path / "outs")
    assert file.read_bytes() == whole
    assert is_recorded(bare, key)


def test_a_missing_out_is_named_and_nothing_is_written(bare, tmp_path):
    shutil.rmtree(tmp_path / "outs/models")
    wanted = "outs: holds no models; a result is recorded whole, with models, summary.json. Let the stage end"
    with pytest.raises(TrackingError, match=wanted):
        record_result(bare, ENTRY, tmp_path / "outs")
    assert not (bare / ".dvc/cache").exists()


@pytest.mark.parametrize("place", ["", "files", "files/md5/f1", "runs", "runs/KEY", "runs/KEY/whole"])
def test_a_cache_that_cannot_be_written_is_named_and_holds_nothing_half(place, bare, tmp_path):
    cache, key = bare / ".dvc/cache", stage_key(ENTRY)
    assert md5(b"w").hexdigest().startswith("f1")
    in_the_way = cache / place.replace("KEY", key[:2]).replace("whole", key)
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("a file, no folder")
    with pytest.raises(
        TrackingError, match=rf"cache: cannot take the result in .*outs: .*{in_the_way.name}.*again"
    ):
        record_result(bare, ENTRY, tmp_path / "outs")
    assert not [path for path in cache.rglob("*") if path.name.startswith(run_cache.ASIDE)]
    objects = [path for path in cache.glob("files/md5/*/*") if path.is_file()]
    assert all(md5(path.read_bytes()).hexdigest() == (path.parent.name + path.stem) for path in objects)
    in_the_way.unlink()
    assert not is_recorded(bare, key)
    assert record_result(bare, ENTRY, tmp_path / "outs") == key
    assert is_recorded(bare, key)


def test_a_disk_that_fills_leaves_the_cache_as_it_was(bare, tmp_path, monkeypatch):
    def full(source, target):
        Path(target).write_text("half")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(run_cache.shutil, "copyfile", full)
    with pytest.raises(TrackingError, match="No space left on device"):
        record_result(bare, ENTRY, tmp_path / "outs")
    assert contents(bare / ".dvc") == {}


def test_outs_that_change_meanwhile_are_refused(bare, tmp_path, monkeypatch):
    monkeypatch.setattr(run_cache.shutil, "copyfile", lambda source, target: Path(target).write_text("new"))
    with pytest.raises(TrackingError, match="models: changes while it is recorded; .* stage has ended"):
        record_result(bare, ENTRY, tmp_path / "outs")
    assert contents(bare / ".dvc") == {}


def test_folders_have_the_rights_of_a_shared_cache(bare, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    (bare / ".dvc/config").write_text("[cache]\n    dir = ../../shared\n    shared = group\n")
    key = record_result(bare, ENTRY, tmp_path / "outs")
    assert is_recorded(bare, key)
    folders = [path for path in shared.rglob("*") if path.is_dir()]
    assert shared / "runs" / key[:2] / key in folders
    assert {path.stat().st_mode & 0o7777 for path in folders} == {0o2775}


def test_outside_a_dvc_repository_nothing_is_recorded(tmp_path):
    with pytest.raises(ConfigError, match="no DVC repository"):
        record_result(tmp_path, ENTRY, tmp_path)
    with pytest.raises(ConfigError, match="no DVC repository"):
        is_recorded(tmp_path, "0" * 64)
