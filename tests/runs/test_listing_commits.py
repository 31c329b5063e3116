import pytest
from ruamel.yaml import YAML

from drtune.base.errors import TrackingError
from drtune.runs.listing import resolve_commit, stage_keys
from drtune.runs.stage_key import stage_key

ENTRY = {
    "cmd": "python -m x",
    "deps": [{"path": "a", "hash": "md5", "md5": "0" * 32, "size": 3}],
    "params": {"params.yaml": {"train.lr": 1e-05}},
    "outs": [{"path": "b", "hash": "md5", "md5": "1" * 32, "size": 4}],
}


@pytest.fixture
def project(tmp_path, git):
    """Three commits: without dvc.lock, with one, and with another one in a folder."""
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "readme").write_text("a")
    commit(tmp_path, git)
    write(tmp_path / "dvc.lock", {"train@a": ENTRY})
    commit(tmp_path, git)
    (tmp_path / "pretrain").mkdir()
    write(tmp_path / "pretrain/dvc.lock", {"export": {**ENTRY, "cmd": "other"}})
    commit(tmp_path, git)
    return tmp_path


def write(path, stages):
    YAML(typ="safe", pure=True).dump({"schema": "2.0", "stages": stages}, path)


def commit(folder, git):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a")


def test_keys_of_a_commit_are_those_of_its_lock_files(project):
    key = stage_key(ENTRY)
    assert stage_keys(project, "HEAD~1") == {"train@a": key}
    both = stage_keys(project, "main")
    assert both["train@a"] == key
    assert list(both) == ["train@a", "pretrain/export"]
    assert both["pretrain/export"] != key


def test_a_dvc_experiment_is_found_by_its_name(project, git):
    head = git(project, "rev-parse", "HEAD").strip()
    git(project, "update-ref", "refs/exps/ab/cdef/lively-name", head)
    assert resolve_commit(project, "lively-name") == head


@pytest.mark.parametrize("revision", ["nonsense", "--all", "HEAD~9", ""])
def test_an_unknown_revision_is_named(project, revision):
    with pytest.raises(
        TrackingError, match=f"{revision}: no such commit, branch, tag or experiment in .*git fetch"
    ):
        stage_keys(project, revision)


def test_a_commit_without_lock_and_a_broken_lock_are_named(project, git):
    with pytest.raises(TrackingError, match="HEAD~2: holds no dvc.lock; commit it after `dvc repro`"):
        stage_keys(project, "HEAD~2")
    (project / "dvc.lock").write_text("a: [")
    commit(project, git)
    with pytest.raises(TrackingError, match="dvc.lock in HEAD: not valid YAML"):
        stage_keys(project, "HEAD")


def test_an_empty_lock_has_no_stage(project, git):
    write(project / "dvc.lock", None)
    commit(project, git)
    assert list(stage_keys(project, "HEAD")) == ["pretrain/export"]
