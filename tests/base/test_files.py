import errno
import os

import pytest
from safetensors import SafetensorError

from drtune.base.files import HALF, read_json, refusal_of_disk, replacing, sha256_of, write_json


def test_replacing_puts_the_new_file_in_place(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with replacing(target) as fresh:
        fresh.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_replacing_keeps_the_old_file_when_the_work_fails(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail_half_way():
        with replacing(target) as fresh:
            fresh.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_replacing_a_folder_removes_what_was_in_it(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "stale").write_text("x")
    with replacing(target) as fresh:
        fresh.mkdir()
        (fresh / "new").write_text("y")
    assert [p.name for p in target.iterdir()] == ["new"]


def test_what_a_killed_process_made_aside_goes_and_what_a_living_one_makes_stays(tmp_path):
    ready, go_on = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        with replacing(tmp_path / "a[1].txt") as fresh:
            fresh.write_text("half")
            os.write(ready[1], b"x")
            os.read(go_on[0], 1)
            os._exit(9)
    os.read(ready[0], 1)
    write_json(tmp_path / "a[1].txt", 1)
    (half,) = tmp_path.glob(f".*{HALF}")
    os.write(go_on[1], b"x")
    os.waitpid(pid, 0)
    other = tmp_path / f".b.txt.abc12345{HALF}"
    other.mkdir()
    write_json(tmp_path / "a[1].txt", 2)
    assert not half.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "a[1].txt"]


def test_a_full_disk_is_recognised_behind_the_errors_of_libraries():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    hiding = RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598")
    hiding.__context__ = full  # as PyTorch leaves it
    quoting = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for fault in (full, hiding, quoting):
        assert refusal_of_disk(fault) == "No space left on device"


def test_other_refusals_name_the_file_and_other_faults_are_none():
    assert (
        refusal_of_disk(PermissionError(errno.EACCES, "Permission denied", "a/b")) == "Permission denied: a/b"
    )
    assert refusal_of_disk(OSError(errno.EROFS, os.strerror(errno.EROFS), "x")) == "Read-only file system: x"
    assert refusal_of_disk(OSError(errno.EIO, os.strerror(errno.EIO))) == "Input/output error"
    assert refusal_of_disk(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None
    assert refusal_of_disk(ValueError("no")) is None


def test_sha256_of_known_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_round_trip_has_stable_bytes_and_refuses_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5], "a": "é"})
    first = path.read_bytes()
    write_json(path, read_json(path))
    assert path.read_bytes() == first
    assert read_json(path) == {"b": [1, 2.5], "a": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert path.read_bytes() == first
