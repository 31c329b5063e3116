"""Folders of images: both layouts, and every way in which one can be laid out wrongly."""

from pathlib import Path

import pytest

from drtune.base.errors import DataError
from drtune.data.packed import Split
from drtune.sources.folder import folder_source, natural


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode(errors="surrogateescape"))
    return root


def ids(rows):
    return [(row.id, row.label) for row in rows]


def test_class_folders(tmp_path):
    touch(
        tmp_path, "dog/b.jpg", "dog/a.jpg", "cat/deep/er/x.png", "README.md", ".git/config", "cat/.DS_Store"
    )
    touch(tmp_path, "__MACOSX/dog/a.jpg", "cat/Thumbs.db")
    source = folder_source(str(tmp_path))
    assert source.classes == ("cat", "dog")
    assert list(source.parts) == [Split.TRAIN]
    assert ids(source.parts[Split.TRAIN]) == [("cat/deep/er/x.png", 0), ("dog/a.jpg", 1), ("dog/b.jpg", 1)]
    assert source.parts[Split.TRAIN][1].load() == b"dog/a.jpg"
    assert source.title == tmp_path.name
    assert "no split" in source.split


def test_split_folders_with_ood(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg", "train/notes.txt")
    touch(tmp_path, "test/cat/5.jpg", "test/dog/6.jpg", "ood/sketch/dog/7.jpg", "dataset.json")
    source = folder_source(str(tmp_path))
    assert list(source.parts) == [Split.TRAIN, Split.VAL, Split.TEST, "ood/sketch"]
    assert ids(source.parts[Split.TEST]) == [("test/cat/5.jpg", 0), ("test/dog/6.jpg", 1)]
    assert ids(source.parts["ood/sketch"]) == [("ood/sketch/dog/7.jpg", 1)]
    assert source.split == "train, val, test as given by folders"


def test_classes_are_the_union_of_all_parts(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/bird/3.jpg")
    assert folder_source(str(tmp_path)).classes == ("bird", "cat", "dog")


def test_relative_path_means_the_current_folder(tmp_path, monkeypatch):
    touch(tmp_path, "images/cat/1.jpg", "images/dog/2.jpg")
    monkeypatch.chdir(tmp_path)
    source = folder_source("images")
    assert ids(source.parts[Split.TRAIN]) == [("cat/1.jpg", 0), ("dog/2.jpg", 1)]


def test_symbolic_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "store/x.jpg", "store/y.jpg", "set/cat/1.jpg")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "store")
    (tmp_path / "set" / "cat" / "linked.jpg").symlink_to(tmp_path / "store" / "x.jpg")
    (tmp_path / "set" / "cat" / "loop").symlink_to(tmp_path / "set" / "cat")
    rows = folder_source(str(tmp_path / "set")).parts[Split.TRAIN]
    assert ids(rows) == [("cat/1.jpg", 0), ("cat/linked.jpg", 0), ("dog/x.jpg", 1), ("dog/y.jpg", 1)]
    assert rows[1].load() == b"store/x.jpg"


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, "train/1.jpg", "bus/2.jpg", "plane/3.jpg")
    source = folder_source(str(tmp_path))
    assert source.classes == ("bus", "plane", "train")
    assert list(source.parts) == [Split.TRAIN]


def test_natural_order():
    assert natural({"c10", "c2", "c1", "b", "10", "9", "é"}) == ["9", "10", "b", "c1", "c2", "c10", "é"]
    assert natural({"a01", "a1"}) == ["a01", "a1"]


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_missing_folder(tmp_path, monkeypatch, path):
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"data\.source '{path}': no such folder; expected CLASS/\*"):
        folder_source(path)


def test_archive_instead_of_a_folder(tmp_path):
    touch(tmp_path, "images.zip")
    with pytest.raises(DataError, match=r"images\.zip': is a file; unpack it"):
        folder_source(str(tmp_path / "images.zip"))


def test_no_class_folders(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(DataError, match="holds no class folders; expected CLASS"):
        folder_source(str(tmp_path))


def test_train_without_class_folders(tmp_path):
    touch(tmp_path, "train/1.jpg", "test/2.jpg")
    with pytest.raises(DataError, match="holds no class folders"):
        folder_source(str(tmp_path))


def test_test_without_train(tmp_path):
    touch(tmp_path, "test/cat/1.jpg", "test/dog/1.jpg")
    with pytest.raises(DataError, match="holds test but no train"):
        folder_source(str(tmp_path))


def test_unknown_folder_beside_train(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "valid/cat/1.jpg")
    with pytest.raises(DataError, match=r"holds train and also valid; .*\(valid -> val\)"):
        folder_source(str(tmp_path))


def test_one_folder_too_high(tmp_path):
    touch(tmp_path, "pets/cat/1.jpg", "pets/dog/1.jpg")
    with pytest.raises(DataError, match=r"one folder pets, .*did you mean data\.source: .*/pets\?"):
        folder_source(str(tmp_path))


def test_ood_name_like_a_shard(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "ood/sketch-001/cat/1.jpg")
    with pytest.raises(DataError, match="must not end in -NNN"):
        folder_source(str(tmp_path))


def test_class_name_that_is_not_text(tmp_path):
    touch(tmp_path, "cat\udcff/1.jpg", "dog/1.jpg")
    with pytest.raises(
        DataError,
        match=r"class folder 'cat\\udcff' .* not valid UTF-8 or holds control characters; rename it",
    ):
        folder_source(str(tmp_path))
