import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import drtune
from drtune.base.errors import ConfigError
from drtune.base.yaml import read_yaml
from drtune.runs.stage_key import (
    StageIdentity,
    current_stage_key,
    lock_keys,
    stage_key,
    stages_at,
    store_root,
)

ENTRY = {
    "cmd": "python train.py",
    "deps": [{"path": "data", "hash": "md5", "md5": "ab.dir", "size": 4, "nfiles": 2}],
    "params": {"params.yaml": {"train": {"lr": 0.001, "deep": {"x": 1}}, "other.y": 2}},
    "outs": [{"path": "out", "hash": "md5", "md5": "cd", "size": 1}],
}
WORK = """
import json, os, sys
from pathlib import Path
from drtune.runs.stage_key import current_stage_key, store_root
found = current_stage_key(Path.cwd(), os.environ["DVC_STAGE"])
seen = [found.key, dict(found.deps), found.outs, str(store_root()), os.getcwd()]
Path(os.environ["SEEN"]).write_text(json.dumps(seen))
Path("out.txt").write_text("x")
Path("metrics.json").write_text("{}")
"""
STAGES = """
stages:
  train:
    matrix: {method: [l2]}
    cmd: PYTHON work.py ${item.method}
    deps: [work.py, data]
    params: [train, other.y]
    outs: [out.txt]
    metrics: [{metrics.json: {cache: false}}]
"""


@pytest.fixture
def repository(tmp_path, git, monkeypatch):
    folder = tmp_path / "repository"
    for part in (folder, folder / "sub"):
        (part / "data").mkdir(parents=True)
        (part / "data/a").write_text("1")
        (part / "data/b").write_text("2")
        (part / "work.py").write_text(WORK)
        (part / "dvc.yaml").write_text(STAGES.replace("PYTHON", sys.executable))
    (folder / "params.yaml").write_text("train: {lr: 0.00001, name: a, steps: [1, 2]}\nother: {y: 3}\n")
    (folder / "sub/params.yaml").write_text("train: {lr: 0.5}\nother: {y: 3}\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(drtune.__file__).parents[1]))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def dvc(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def entry_of(folder):
    return read_yaml(folder / "dvc.lock")["stages"]["train@l2"]


def md5(text):
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def cached_keys(folder):
    return {path.name for path in folder.glob(".dvc/cache/runs/*/*")}


def test_key_is_the_name_of_dvc_s_own_run_cache_entry(repository, git, tmp_path, monkeypatch):
    dvc(repository, "repro", "dvc.yaml")
    key, deps, outs, root, cwd = json.loads((tmp_path / "seen.json").read_text())
    assert cached_keys(repository) == {key}
    assert stage_key(entry_of(repository)) == key
    assert set(deps) == {"data", "work.py"}
    assert deps["data"].endswith(".dir")
    assert outs == ["metrics.json", "out.txt"]
    assert root == cwd == str(repository)

    # A stage of a folder below is named by its file in DVC_STAGE.
    dvc(repository, "repro", "sub/dvc.yaml")
    below, _, _, root, cwd = json.loads((tmp_path / "seen.json").read_text())
    assert cached_keys(repository) == {key, below}
    assert (root, cwd) == (str(repository), str(repository / "sub"))

    # A temporary experiment: its own checkout is keyed, its runs belong to the parent workspace.
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "second")
    dvc(repository, "exp", "run", "--temp", "-S", "train.lr=0.01", "train@l2")
    other, _, _, root, cwd = json.loads((tmp_path / "seen.json").read_text())
    assert cached_keys(repository) == {key, below, other}
    assert stage_key(entry_of(repository), {"train.lr": 0.01}) == other
    assert root == str(repository)
    assert cwd.startswith(str(repository / ".dvc/tmp/exps"))

    # Hashes are fresh, whatever dvc.lock says.
    monkeypatch.chdir(repository)
    monkeypatch.setenv("DVC_STAGE", "train@l2")
    known = current_stage_key(repository, "train@l2")
    assert (known.key, known.recorded) == (key, True)
    (repository / "data/a").write_text("changed")
    fresh = current_stage_key(repository, "train@l2")
    assert fresh.key not in {key, other}
    assert not fresh.recorded
    (repository / "data/a").write_text("1")
    held = repository / ".dvc/cache/files/md5" / md5("x")[:2] / md5("x")[2:]
    held.unlink()  # a full disk: the run cache has the entry, the cache not all of it
    assert not current_stage_key(repository, "train@l2").recorded, "DVC will run it again"
    monkeypatch.delenv("DVC_STAGE")
    assert current_stage_key(repository, "train@l2").recorded, "by hand, nothing is taken over"


def test_key_of_an_entry():
    text = (
        '{"cmd": "python train.py", "deps": [{"hash": "md5", "md5": "ab.dir", "path": "data"}], '
        '"outs": ["out"], '
        '"params": {"params.yaml": {"other.y": 2, "train": {"deep": {"x": 1}, "lr": 0.001}}}}'
    )
    assert stage_key(ENTRY) == hashlib.sha256(text.encode()).hexdigest()
    assert ENTRY["outs"][0]["md5"] == "cd"  # the entry itself is left alone


def test_key_under_other_parameters():
    replaced = json.loads(json.dumps(ENTRY))
    replaced["params"]["params.yaml"] = {"train": {"lr": 0.1, "deep": {"x": 5}}, "other.y": 7}
    changes = {"train.lr": 0.1, "train.deep.x": 5, "other.y": 7}
    assert stage_key(ENTRY, changes) == stage_key(replaced) != stage_key(ENTRY)


@pytest.mark.parametrize("name", ["train.new", "train.lr.x", "other", "unknown"])
def test_a_parameter_that_the_stage_does_not_read_is_refused(name):
    with pytest.raises(ConfigError, match=rf"{name}: the stage does not depend on .* on: train, other.y"):
        stage_key(ENTRY, {name: 1})


def test_outside_dvc_there_is_no_key(tmp_path):
    assert current_stage_key(tmp_path, "train") is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("trouble", ["no git", "no dvc.yaml", "unknown stage", "missing dependency"])
def test_a_stage_that_dvc_cannot_read_has_no_key(trouble, tmp_path, git, monkeypatch, caplog):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("")
    if trouble != "no git":
        git(tmp_path, "init", "-q")
    if trouble != "no dvc.yaml":
        (tmp_path / "dvc.yaml").write_text("stages:\n  train: {cmd: x, deps: [gone], outs: [o]}\n")
    assert current_stage_key(tmp_path, "typo" if trouble == "unknown stage" else "train") is None
    assert "has no key" in caplog.text


def test_store_root(tmp_path, monkeypatch):
    (tmp_path / "a/.dvc").mkdir(parents=True)
    (tmp_path / "a/b").mkdir()
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path / "c")
    assert store_root() == Path(os.getcwd())
    monkeypatch.chdir(tmp_path / "a/b")
    assert store_root() == tmp_path / "a"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "c"))
    assert store_root() == tmp_path / "c"


def entry(cmd, deps, outs):
    return {
        "cmd": cmd,
        "deps": [{"path": path, "md5": "0"} for path in deps],
        "outs": [{"path": path, "md5": "1"} for path in outs],
    }


def test_what_a_lock_will_hold_when_a_stage_has_run(tmp_path):
    lock = tmp_path / "dvc.lock"
    identity = StageIdentity("k" * 64, {}, ("data",))
    assert lock_keys(lock) == {}
    assert stages_at(lock, "download", identity) == {"download": "k" * 64}
    stages = {
        "download": entry("d", ["images"], ["data"]),
        "extract": entry("e", ["data/train"], ["bank"]),
        "train": entry("t", ["bank"], ["models"]),
        "aside": entry("a", ["database"], ["other"]),
    }
    YAML().dump({"schema": "2.0", "stages": stages}, lock)
    keys = lock_keys(lock)
    assert keys == {name: stage_key(described) for name, described in stages.items()}
    assert stages_at(lock, "download", identity) == {"aside": keys["aside"], "download": "k" * 64}
    identity = StageIdentity("k" * 64, {}, ("models",))
    assert stages_at(lock, "train", identity) == keys | {"train": "k" * 64}
