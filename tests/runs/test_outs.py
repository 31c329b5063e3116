import json

import pytest

from drtune.runs.outs import completed_entry, describe_out, describe_outs, folder_listing


@pytest.fixture
def folder(tmp_path):
    """Files whose order by path differs from that by part, one nested, one that DVC ignores."""
    made = tmp_path / "out"
    for name, text in {"a/b.txt": "1", "a-c.txt": "", "ü.txt": "3", "z/__pycache__/x.pyc": "4"}.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def test_a_folder_has_the_md5_that_dvc_gives_it(folder):
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    for ignored in folder.rglob("__pycache__"):
        for file in ignored.iterdir():
            file.unlink()
        ignored.rmdir()
    database = HashFileDB(LocalFileSystem(), str(folder.parent / "cache"))
    _, meta, tree = build(database, str(folder), LocalFileSystem(), "md5", dry_run=True)
    found = describe_out(folder)
    assert found["md5"] == tree.hash_info.value
    assert (found["size"], found["nfiles"]) == (meta.size, 3)


def test_what_dvc_ignores_is_left_out(folder):
    assert [entry["relpath"] for entry in folder_listing(folder)] == ["a-c.txt", "a/b.txt", "ü.txt"]


def test_a_file_has_its_plain_md5(folder):
    assert describe_out(folder / "a/b.txt") == {
        "hash": "md5",
        "md5": "c4ca4238a0b923820dcc509a6f75849b",
        "size": 1,
    }


def test_outs_that_do_not_exist_are_left_out(folder):
    assert list(describe_outs(folder.parent, ["out", "gone.json"])) == ["out"]
    with pytest.raises(FileNotFoundError):
        describe_out(folder / "gone")


def test_an_entry_is_completed_and_the_given_one_stays():
    entry = {"cmd": "x", "outs": [{"path": "out"}]}
    before = json.dumps(entry)
    assert completed_entry(entry, {"out": {"md5": "0"}})["outs"] == [{"path": "out", "md5": "0"}]
    assert json.dumps(entry) == before
