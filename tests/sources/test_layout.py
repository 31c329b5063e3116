"""Which folders are parts and which are classes."""

from pathlib import Path

import pytest

from drtune.base.errors import DataError
from drtune.data.packed import Split
from drtune.sources.layout import layout_of


def made(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "1.jpg").touch()
    return root


def places(root: Path) -> set[tuple[str, str]]:
    return {(place.part, place.name) for place in layout_of(root).places}


BOTH = {(part, name) for part in Split for name in ("cat", "dog")}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("training", "validation", "testing"),
        ("train", "dev", "Test "),
    ],
)
def test_parts_in_any_case_and_order(tmp_path, names):
    made(tmp_path / "a", *(f"{part}/{name}" for part in names for name in ("cat", "dog")))
    made(tmp_path / "b", *(f"{name}/{part}" for part in names for name in ("cat", "dog")))
    assert places(tmp_path / "a") == places(tmp_path / "b") == BOTH
    words = layout_of(tmp_path / "a").parts
    assert words.startswith("train")
    assert words.endswith(" as given by folders")
    assert ("(Val)" in words) == ("Val" in names)
    assert layout_of(tmp_path / "b").parts.endswith("as given by folders within each class")


def test_a_part_that_repeats_its_name_is_entered(tmp_path):
    made(tmp_path, "train/Train/cat", "train/Train/dog", "test/cat", "test/dog")
    assert places(tmp_path) == {place for place in BOTH if place[0] != Split.VAL}


def test_classes_may_be_called_as_parts_within_train(tmp_path):
    made(tmp_path, "train/valid", "train/invalid", "test/valid", "test/invalid")
    assert {name for _, name in places(tmp_path)} == {"valid", "invalid"}


def test_a_class_called_train_is_said(tmp_path):
    made(tmp_path, "train", "bus")
    assert layout_of(tmp_path).warnings == ["the folder train holds images alone and is read as a class"]


def test_names_that_only_look_like_parts_are_classes(tmp_path):
    made(tmp_path, "contest", "trainer", "test_tube", "development", "valley", "train_station")
    assert len(places(tmp_path)) == 6


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["cat", "dog", "test"], r"holds test beside cat, dog\. If they are parts, .*one folder `train`"),
        (["valid", "invalid"], "holds valid beside invalid"),
        (["Test/cat", "Val/cat"], "holds Test, Val but no train"),
        (["seg_train/a", "seg_test/a", "seg_pred/a"], "seg_test, seg_train look like parts, not classes; re"),
        (["train2017", "val2017"], "train2017, val2017 look like parts"),
        (["trainset/a", "testset/a"], "testset, trainset look like parts"),
        (["train_images", "test_images", "extra"], "test_images, train_images look like parts"),
        (["train/a", "Train/a"], "Train and train both mean train; merge them"),
        (["train/a", "val/a", "validation/a"], "val and validation both mean val"),
        (["train/a", "unlabelled/a"], "holds train and also unlabelled; understood are dev, ood, test"),
        (
            ["train/train/a", "train/test/a"],
            r"holds test, train itself; did you mean data\.source: .*train\?",
        ),
        (["train/a", "test"], r"test: holds images \(1\) but no class folders; .* move it away"),
        (
            ["cat/train", "cat/test", "dog"],
            "cat holds folders that are named as parts, dog holds 1.jpg; give",
        ),
        (["cat/train", "cat/test", "cat/more", "dog/train"], "cat holds more, test, train; give every class"),
        (["cat/train", "cat/Train", "cat/test", "dog/train"], "cat holds Train, test, train; give"),
        (["cat/test", "dog/test"], "cat holds test; give every class train"),
    ],
)
def test_what_may_be_read_in_two_ways_is_asked_about(tmp_path, folders, words):
    made(tmp_path, *folders)
    with pytest.raises(DataError, match=words):
        layout_of(tmp_path)


def test_an_empty_part_is_no_part_that_is_not_there(tmp_path):
    made(tmp_path, "train/a", "train/b")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"test: holds images \(0\) but no class folders"):
        layout_of(tmp_path)
