"""From data.name to rows."""

from pathlib import Path

import pytest

from drtune.base.errors import DataError
from drtune.data.packed import Split
from drtune.sources.settings import DataSettings
from drtune.sources.sources import NAMES, read_source


def settings(name: str, path: str = "") -> DataSettings:
    return DataSettings(
        name=name, path=path, shots=None, fraction=1.0, val_fraction=0.2, test_fraction=0.2, seed=0,
        on_bad_image="error",
    )  # fmt: skip


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_names_are_seventeen():
    assert len(NAMES) == len(set(NAMES)) == 17


def test_unknown_name(tmp_path):
    with pytest.raises(DataError, match=r"data\.name: 'oxford_pet' is unknown; did you mean oxford_pets\?"):
        read_source(settings("oxford_pet"), tmp_path)


def test_digits_and_folder(tmp_path):
    assert len(read_source(settings("digits"), tmp_path).parts[Split.TRAIN]) == 1797
    put(tmp_path / "cat" / "1.jpg", "x")
    put(tmp_path / "dog" / "1.jpg", "y")
    assert read_source(settings("folder", str(tmp_path)), tmp_path).classes == ("cat", "dog")


def dtd(tree: Path, classes: int) -> None:
    for split in ("train", "val", "test"):
        lines = [f"texture{number:02d}/{split}.jpg" for number in range(classes)]
        put(tree / "dtd" / "dtd" / "labels" / f"{split}1.txt", "\n".join(lines))
        for line in lines:
            put(tree / "dtd" / "dtd" / "images" / line, line)


def test_published_set_from_its_extracted_tree(tmp_path):
    dtd(tmp_path / "dtd" / "extracted", 47)
    source = read_source(settings("dtd"), tmp_path)
    assert (len(source.classes), source.licence, list(source.parts)) == (47, "research purposes", list(Split))
    assert source.parts[Split.VAL][3].id == "dtd/dtd/images/texture03/val.jpg"


def test_tree_that_is_not_whole(tmp_path):
    dtd(tmp_path / "dtd" / "extracted", 40)
    with pytest.raises(DataError, match="holds 40 classes, expected 47; delete that folder"):
        read_source(settings("dtd"), tmp_path)
    (tmp_path / "food101" / "extracted").mkdir(parents=True)
    with pytest.raises(DataError, match=r"data\.name food101: .*extracted is not whole \(Dataset not found"):
        read_source(settings("food101"), tmp_path)


def test_cars_say_what_to_put_where(tmp_path):
    with pytest.raises(DataError) as caught:
        read_source(settings("stanford_cars"), tmp_path)
    text = str(caught.value)
    assert "its host is gone" in text
    assert f"put into {tmp_path / 'stanford_cars'}/" in text
    for file in ("car_devkit.tgz", "cars_train.tgz", "cars_test.tgz", "cars_test_annos_withlabels.mat"):
        assert f"  {file}  from https://ai.stanford.edu/" in text
