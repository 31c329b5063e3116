"""A run whose files, tags or patch are a stranger's: it is restored as it is, or refused in words."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from drtune.base.errors import DRTuneError, TrackingError, UntrustedError
from drtune.runs.restore import restore


@pytest.fixture
def refused(toy, store, place, held):
    """Restores the run and says why it was not; nothing may be left then."""

    def attempt(tags=(), match="refused"):
        (run,) = toy.runs()
        with pytest.raises((UntrustedError, TrackingError), match=match):
            restore(store, replace(run, tags={**run.tags, **dict(tags)}), place)
        assert not place.exists()

    return attempt


@pytest.fixture
def entry(held):
    """Changes the stage's entry in the store."""

    def change(how):
        path = held / "stage.lock.json"
        content = json.loads(path.read_text())
        how(content)
        path.write_text(json.dumps(content))

    return change


def put(toy, content, suffix=""):
    """Plant an object in DVC's cache; returns its md5."""
    md5 = hashlib.md5(content).hexdigest() + suffix
    path = toy.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return md5


@pytest.mark.parametrize("kind", ["deps", "outs"])
def test_a_listing_that_leads_out_is_not_checked_out(toy, entry, refused, tmp_path, kind):
    planted = put(toy, b"planted")
    names = "ok.txt", "../planted.txt", "../../planted.txt", "../../../planted.txt"
    listing = put(toy, json.dumps([{"md5": planted, "relpath": name} for name in names]).encode(), ".dir")

    def change(content):
        next(part for part in content[kind] if part["path"] in ("data/raw", "out"))["md5"] = listing

    entry(change)
    refused(match="'../planted.txt' is no path below")
    assert not list(tmp_path.rglob("planted.txt"))


def first(kind, **values):
    return lambda content: content[kind][0].update(values)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda content, value=value: content.update(value) for value in (
            {"deps": 3}, {"deps": [3]}, {"deps": [{"md5": "0" * 32}]}, {"deps": None}, {"outs": [None]},
        )),
        *(first("deps", path=value) for value in (5, [1], "a\0b", "a\x1b[2J", ".git/config", "x/.GIT", "-x")),
        *(first("outs", path=value) for value in (5, ".dvc/config", "ssh://host/x", "s3://bucket/x")),
        *(first("outs", md5=value) for value in ("../../../etc/passwd", [1], 5, "", "../../../x.dir")),
    ],
)  # fmt: skip
def test_an_entry_that_is_none_is_refused(entry, refused, change):
    entry(change)
    refused()


def test_an_entry_without_end_and_one_that_is_no_mapping_are_refused(held, entry, refused):
    deep = json.loads("[" * 400 + "]" * 400)
    entry(lambda content: content.update(params=deep))
    refused(match="is no stage as DVC's lock file has it|cannot be put into|recursion")
    for text in ("[]", "null", '"x"', "{"):
        (held / "stage.lock.json").write_text(text)
        refused(match="is no stage as DVC's lock file has it|not valid JSON")


@pytest.mark.parametrize(
    "text",
    ["stages: []\n", "schema: '2.0'\n", "stages: {a: b}\n", "stages: {a: {outs: }}\n", "[]\n", "a: \0"],
)
def test_a_lock_file_that_is_none_is_refused(held, place, store, toy, text):
    (held / "dvc.lock").write_text(text)
    with pytest.raises(DRTuneError, match="no lock file|no stage as|expected sections|not valid YAML"):
        restore(store, toy.runs()[0], place)
    assert not place.exists()


def test_what_dvc_does_not_write_of_a_file_goes_no_further(toy, store, place, held, tmp_path):
    planted = put(toy, b"planted")
    lock = json.loads((held / "stage.lock.json").read_text())
    files = [{"relpath": f"{'../' * up}planted.txt", "md5": planted} for up in range(5)]
    raw = next(part for part in lock["deps"] if part["path"] == "data/raw")
    fetch = {"cmd": "x", "outs": [{**raw, "files": files, "remote": "elsewhere", "cloud": {}}]}
    (held / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"fetch": fetch}}))
    restore(store, toy.runs()[0], place)
    assert (place / "data/raw/numbers.json").is_file()
    assert not list(tmp_path.rglob("planted.txt"))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/ptmx", "pipe"])
def test_what_never_ends_is_not_read(toy, entry, refused, tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    path = str(tmp_path / "pipe") if path == "pipe" else path
    entry(lambda content: content["deps"].append({"path": path, "md5": "0" * 32}))
    refused(match=f"holds what the run read as {path}")


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("git.commit", "--since=yesterday", "its commit .* is not in"),
        ("git.commit", "a\0b", "its commit .* is not in"),
        ("drtune.folder", "toy_stage.py", "its folder 'toy_stage.py' is not in commit"),
        ("drtune.folder", "nowhere", "its folder 'nowhere' is not in commit"),
        ("drtune.folder", ".git", "its folder '.git' is not in commit"),
        ("drtune.stage", "--help", "is no name of a stage"),
        ("drtune.stage", "a\x1b]0;b\x07", "is no name of a stage"),
    ],
)
def test_tags_are_no_options_and_no_folders_of_their_own(refused, tag, value, words):
    refused({tag: value}, words)


def test_words_of_a_store_steer_no_terminal(toy, store, place):
    (run,) = toy.runs()
    tags = {"git.commit": "0" * 40, "git.remote": "\x1b[2J\x9b31m\u202ehost"}
    with pytest.raises(TrackingError) as fault:
        restore(store, replace(run, name="\x1b]8;;http://x\x07", tags={**run.tags, **tags}), place)
    assert r"\x1b[2J\x9b31m\u202ehost" in str(fault.value)
    assert "\x1b" not in str(fault.value)


def new(name, text="x", mode="100644"):
    head = f"diff --git a/{name} b/{name}\nnew file mode {mode}\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n"
    return f"{head}+{text}\n\\ No newline at end of file\n"


def moved(old, fresh):
    return f"diff --git a/{old} b/{fresh}\nsimilarity index 100%\nrename from {old}\nrename to {fresh}\n"


EVIL_DVC = moved(".dvc/config", "evil/config") + moved(".dvc/.gitignore", "evil/.gitignore")
ZLIB = "index " + "0" * 40 + ".." + "1" * 40 + "\nGIT binary patch\nliteral 99999999999\nzc\n\n"


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (new("../prey.py"), ""),
        (new("/prey.py"), "invalid path|failed"),
        (new(".git~1/hooks/x.py"), ""),
        (new("sub/.git/config"), ""),
        (new("link.py", "..", "120000") + new("link.py/prey.py"), "beyond a symbolic link"),
        (EVIL_DVC + new(".dvc", "evil", "120000"), "takes settings of DVC away"),
        (moved(".dvc/config", "code.py"), "takes settings of DVC away"),
        ("diff --git a/x.py b/x.py\nnew file mode 100644\n" + ZLIB, "holds binary content, which is no code"),
        (new("data", "/", "120000"), "leads out of .* by a link"),
        (new("out", "/", "120000"), "leads out of .* by a link"),
        (new("sub", "0" * 40, "160000"), ""),
        (new("x.py", "x", "060000"), ""),
    ],
)
def test_a_patch_writes_code_below_its_worktree(toy, store, place, held, tmp_path, patch, words):
    with (held / "code.patch").open("a") as stream:
        stream.write(patch)
    if words:
        with pytest.raises(DRTuneError, match=words):
            restore(store, toy.runs()[0], place)
        assert not place.exists()
    else:
        restore(store, toy.runs()[0], place)
        assert not [path for path in place.rglob("*") if path.is_symlink() or ".git" in path.parts[-2:-1]]
    assert not list(tmp_path.glob("prey*"))


def test_dot_files_and_pointers_of_a_patch_stay_away(toy, store, place, held):
    names = ".dvc/config.local", ".DVC/config", "sub/.dvc/config", ".gitattributes", ".gitmodules", "evil.dvc"
    links = "".join(new(name, "evil", "120000") for name in ("sub/.dvc", ".envrc"))
    with (held / "code.patch").open("a") as stream:
        stream.write("".join(map(new, names[:2])) + links + "".join(map(new, names[3:])) + new("code/new.py"))
    restore(store, toy.runs()[0], place)
    assert (place / "code/new.py").read_text() == "x"
    assert "x" not in {(place / name).read_text() for name in names if (place / name).is_file()}
    assert not [name for name in (*names[1:], ".envrc") if (place / name).exists()]


def test_a_patch_without_end_is_not_read(toy, store, place, held, monkeypatch):
    monkeypatch.setattr("drtune.runs.restore.MAX_PATCH_BYTES", 10)
    with pytest.raises(TrackingError, match="its patch has .* bytes; no run writes such a one"):
        restore(store, toy.runs()[0], place)
    assert Path(held / "code.patch").stat().st_size > 40
