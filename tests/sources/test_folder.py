"""Folders of images: both layouts, and every way in which one can be laid out wrongly."""

from pathlib import Path

import pytest

from drtune.base.errors import DataError
from drtune.data.packed import Split
from drtune.sources.folder import folder_source


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
    with pytest.raises(DataError, match=r"train: holds images \(1\) but no class folders; .*labels\.csv"):
        folder_source(str(tmp_path))


def test_test_without_train(tmp_path):
    touch(tmp_path, "test/cat/1.jpg", "test/dog/1.jpg")
    with pytest.raises(DataError, match="holds test but no train"):
        folder_source(str(tmp_path))


def test_unknown_folder_beside_train(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "extra/cat/1.jpg")
    with pytest.raises(
        DataError, match=r"holds train and also extra; understood are dev, .*, validation: rename"
    ):
        folder_source(str(tmp_path))


def test_one_folder_too_high(tmp_path):
    touch(tmp_path, "pets/cat/1.jpg", "pets/dog/1.jpg")
    with pytest.raises(DataError, match=r"one folder pets, .*did you mean data\.source: .*/pets\?"):
        folder_source(str(tmp_path))


def test_ood_name_like_a_shard(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "ood/sketch-001/cat/1.jpg")
    with pytest.raises(DataError, match="must not end in -NNN"):
        folder_source(str(tmp_path))


def test_what_is_passed_over_is_said(tmp_path):
    touch(tmp_path, "cat/1.jpg", "cat/.2.jpg", "dog/1.jpg", ".old/x.jpg", "1.JPG", "2.png", "README.md")
    touch(tmp_path, "cat/@eaDir/1.jpg", "cat/._1.jpg", "@eaDir/x.jpg", "#recycle/x.jpg")
    (tmp_path / "dog" / "up").symlink_to("..")
    source = folder_source(str(tmp_path))
    assert source.classes == ("cat", "dog")
    assert ids(source.parts[Split.TRAIN]) == [("cat/1.jpg", 0), ("dog/1.jpg", 1)]
    assert source.warnings == (
        "passed over: 2 images that lie beside the class folders: 1.JPG, 2.png",
        "passed over: 2 names that begin with a dot, and links that lead back: cat/.2.jpg, dog/up",
    )


def test_a_link_to_the_folder_or_above_is_not_entered(tmp_path):
    touch(tmp_path, "set/cat/1.jpg", "set/dog/2.jpg", "set/cow/deep/3.jpg", "other/4.jpg")
    for name, target in {"cat/up": "..", "dog/top": "../..", "cow/deep/round": "../../cow"}.items():
        (tmp_path / "set" / name).symlink_to(target)
    rows = folder_source(str(tmp_path / "set")).parts[Split.TRAIN]
    assert ids(rows) == [("cat/1.jpg", 0), ("cow/deep/3.jpg", 1), ("dog/2.jpg", 2)]


@pytest.mark.parametrize(
    "name", ["01", "NA", "null", "true", "1e3", "~", "a b", "ä", "-", "[x]", "{a}", "#1"]
)
def test_class_names_stay_what_they_are(tmp_path, name):
    touch(tmp_path, f"{name}/a b.jpg", f"{name}/new\nline.jpg", "other/1.jpg")
    source = folder_source(str(tmp_path))
    assert set(source.classes) == {name, "other"}
    assert source.warnings == ()
    assert f"{name}/new\\nline.jpg" in [row.id for row in source.parts[Split.TRAIN]]


def test_one_name_in_two_forms_of_unicode_is_one_class(tmp_path):
    touch(tmp_path, "train/café/1.jpg", "train/dog/1.jpg", "test/cafe\u0301/1.jpg", "test/dog/1.jpg")
    source = folder_source(str(tmp_path))
    assert source.classes == ("café", "dog")
    assert ids(source.parts[Split.TEST])[0] == ("test/cafe\u0301/1.jpg", 0)


def test_classes_that_differ_by_case_are_two_and_said(tmp_path):
    touch(tmp_path, "A/1.jpg", "a/1.jpg", "b/1.jpg")
    source = folder_source(str(tmp_path))
    assert source.classes == ("A", "a", "b")
    assert source.warnings == (
        "classes that differ by case or spaces alone, each its own class: 'A' and 'a'",
    )


def test_thousands_of_classes(tmp_path):
    touch(tmp_path, *(f"person_{number}/1.jpg" for number in range(3000)))
    source = folder_source(str(tmp_path))
    assert source.classes == tuple(f"person_{number}" for number in range(3000))


def test_a_table_that_is_not_called_labels_is_pointed_at(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg", "train.csv", "sample_submission.csv")
    with pytest.raises(DataError, match=r"say so: data.labels: sample_submission.csv or train.csv$"):
        folder_source(str(tmp_path))


def test_a_table_in_place_of_its_folder(tmp_path):
    touch(tmp_path, "train.csv")
    with pytest.raises(
        DataError, match=r"train.csv': is a table; name its folder .*, and the table in data.labels"
    ):
        folder_source(str(tmp_path / "train.csv"))


def test_a_copy_that_dvc_made_says_so(tmp_path, monkeypatch):
    touch(tmp_path, ".dvc/tmp/exps/tmp1/params.yaml")
    monkeypatch.chdir(tmp_path / ".dvc/tmp/exps/tmp1")
    with pytest.raises(DataError, match=r"no such folder.* holds only what git or DVC tracks: give an abs"):
        folder_source("images")


def test_a_class_name_of_two_lines(tmp_path):
    touch(tmp_path, "a\nb/1.jpg", "c/1.jpg")
    with pytest.raises(
        DataError,
        match=r"class folder 'a\\nb' .*: its name is longer .* or holds control characters; rename it",
    ):
        folder_source(str(tmp_path))


def test_class_name_that_is_not_text(tmp_path):
    touch(tmp_path, "cat\udcff/1.jpg", "dog/1.jpg")
    with pytest.raises(
        DataError,
        match=r"class folder 'cat\\udcff' .* is not valid UTF-8 or holds control characters; rename it",
    ):
        folder_source(str(tmp_path))
