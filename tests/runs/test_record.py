import dataclasses
import importlib.metadata
import os
import re
import time

import psutil
import pytest

from drtune.runs import record


@pytest.fixture
def checkout(tmp_path, git):
    folder = tmp_path / "checkout"
    (folder / "sub").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "remote", "add", "origin", "https://me:secret@example.org/me/it.git")
    for name, text in {
        "code.py": "one\n",
        "params.yaml": "a: 1\n",
        "metrics.json": "{}\n",
        "sub/metrics.json": "{}\n",
        "dvc.lock": "schema: '2.0'\nstages:\n  e:\n    cmd: x\n    outs:\n    - path: metrics.json\n",
        "sub/dvc.lock": "schema: '2.0'\nstages:\n  e:\n    cmd: x\n    outs:\n    - path: metrics.json\n",
    }.items():
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_checkout(checkout, git):
    found = record.collect(checkout)
    assert found.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert (found.facts["git.branch"], found.patch) == ("main", "")
    assert found.tags()["git.remote"] == "https://example.org/me/it.git"
    assert found.tags()["git.dirty"] == "false"


def test_what_a_running_stage_changes_is_not_dirt(checkout):
    (checkout / "params.yaml").write_text("a: 2\n")
    (checkout / "dvc.lock").write_text((checkout / "dvc.lock").read_text() + "\n")
    (checkout / "metrics.json").unlink()
    (checkout / "sub/metrics.json").write_text("changed")
    (checkout / "notes.txt").write_text("untracked, no code")
    assert record.collect(checkout).tags()["git.dirty"] == "false"


def test_patch_turns_the_commit_into_the_code_that_ran(checkout, git, tmp_path):
    contents = {
        "code.py": b"one\ntwo",
        "new.py": "\u00fc = 1\n\n\x0c\r\nlast".encode(),
        "empty.py": b"",
        "a folder/latin.py": b"# \xe9\n",
        "staged.yaml": b"a: \xff\n",
    }
    (checkout / "a folder").mkdir()
    for name, content in contents.items():
        (checkout / name).write_bytes(content)
    git(checkout, "add", "staged.yaml")
    index = (checkout / ".git/index").read_bytes()
    found = record.collect(checkout / "sub")
    assert found.tags()["git.dirty"] == "true"
    assert (checkout / ".git/index").read_bytes() == index

    git(tmp_path, "clone", "-q", str(checkout), "clone")
    patch = tmp_path / "code.patch"
    patch.write_bytes(found.patch.encode("utf-8", "surrogateescape"))
    git(tmp_path / "clone", "apply", str(patch))
    assert {name: (tmp_path / "clone" / name).read_bytes() for name in contents} == contents


SECRETS = (
    ".dvc/config", ".dvc/config.local", ".env", ".env.team", "sub/.env", "key.pem", "id_rsa", "secrets.txt",
    ".netrc", "notebook.ipynb", "credentials.json", "aws.ini", "token", "sub/.dvc/config", "secrets.yaml",
    ".streamlit/secrets.toml", "settings.toml", "compose.override.yaml", "deploy.sh", "conf/api_keys.yml",
    "My_Credentials.py", ".github/workflows/own.yml",
)  # fmt: skip


def test_a_patch_holds_code_and_no_key(checkout, git):
    for name in SECRETS:
        (checkout / name).parent.mkdir(exist_ok=True, parents=True)
        (checkout / name).write_text("x = 1\n")
    git(checkout, "add", "-f", "-A")
    git(checkout, "commit", "-q", "-m", "second")
    for name in SECRETS:
        (checkout / name).write_text("password = s3cret\n")
    (checkout / "code.py").write_text("two\n")
    (checkout / "secret_new.py").write_text("password = s3cret\n")
    found = record.collect(checkout)
    assert "s3cret" not in found.patch
    assert "+two" in found.patch
    assert found.left_out == tuple(sorted([*SECRETS, "secret_new.py"]))


def test_a_huge_difference_is_noted_only(checkout, monkeypatch):
    monkeypatch.setattr(record, "MAX_PATCH_BYTES", 50)
    (checkout / "code.py").write_text("x" * 100)
    found = record.collect(checkout)
    assert found.tags()["git.dirty"] == "true"
    assert re.match("# the difference from HEAD exceeds 50 bytes", found.patch)


def test_user_settings_of_git_do_not_bend_the_patch(checkout, git):
    (checkout / "code.py").write_text("two\n")
    plain = record.collect(checkout).patch
    for name, value in {"diff.noprefix": "true", "color.ui": "always", "diff.external": "false"}.items():
        git(checkout, "config", name, value)
    assert record.collect(checkout).patch == plain


def test_detached_head_has_no_branch(checkout, git):
    git(checkout, "checkout", "-q", "--detach")
    found = record.collect(checkout)
    assert found.commit
    assert "git.branch" not in found.tags()


@pytest.mark.parametrize("how", ["no repository", "no commit", "no git"])
def test_without_git_the_rest_is_recorded(how, tmp_path, git, monkeypatch):
    if how == "no commit":
        git(tmp_path, "init", "-q")
    if how == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = record.collect(tmp_path)
    assert (found.commit, found.patch, found.left_out) == ("", "", ())
    assert not any(name.startswith("git.") for name in found.tags())
    assert found.tags()["env.python"]
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert record.collect(tmp_path).tags()["git.commit"] == "abc"


def test_process_and_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "e1")
    (tmp_path / "requirements.lock").write_text("")
    found = record.collect(tmp_path)
    tags = found.tags()
    assert tags["proc.pid"] == str(os.getpid())
    assert tags["proc.start"] == f"{psutil.Process().create_time():.2f}"
    assert tags["dvc.exp_name"] == "e1"
    assert tags["env.lock_sha256"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert "dvc.lock_sha256" not in tags
    assert tags["env.device"]
    assert tags["env.torch"] == importlib.metadata.version("torch")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.patch = ""


def test_package_names_and_versions_are_those_of_importlib():
    found = dict(line.split("==") for line in record.installed_packages())
    for name in ("pytest", "mlflow", "pydantic-core"):
        assert found[name] == importlib.metadata.version(name)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:p@ss@host:8443/a/b.git", "https://host:8443/a/b.git"),
        ("https://token@host/a.git?private_token=t#x", "https://host/a.git"),
        ("ssh://git@host/a@b.git", "ssh://host/a@b.git"),
        ("git@host:a/b.git", "host:a/b.git"),
        ("/srv/git/a@b", "/srv/git/a@b"),
        ("", ""),
    ],
)
def test_credentials_are_cut_from_remotes(address, shown):
    assert record.without_userinfo(address) == shown


def test_gpus_are_counted_by_name_and_come_before_the_cpu(monkeypatch):
    monkeypatch.setattr(record, "cards", lambda: ["Card B", "Card A", "Card A"])
    assert record.device_name() == "2 x Card A; 1 x Card B"
    monkeypatch.setattr(record, "cards", list)
    assert "Card" not in record.device_name()


def test_a_git_that_hangs_is_given_up(tmp_path, monkeypatch):
    tool = tmp_path / "git"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(record, "GIT_SECONDS", 0.1)
    before = time.monotonic()
    assert record.git(tmp_path, "status") == ""
    assert time.monotonic() - before < 5


def test_links_and_odd_names_are_left_out_of_the_patch(checkout, tmp_path):
    (tmp_path / "id").write_text("s3cret\n")
    os.mkfifo(tmp_path / "pipe")
    links = {"a.py": tmp_path / "id", "b.py": tmp_path / "pipe", "c.py": "/dev/zero"}
    for name, target in links.items():
        (checkout / name).symlink_to(target)
    odd = "x\ny.py", 'q".py', "b\\.py", "e\x1b[2J.py"
    for name in odd:
        (checkout / name).write_text("s3cret\n")
    found = record.collect(checkout)
    assert found.patch == ""
    assert found.left_out == tuple(sorted([*links, *odd]))
