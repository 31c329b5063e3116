"""From data.source to rows: a record or a folder."""

import json
import shutil
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from drtune.base.errors import ConfigError, DataError
from drtune.data.packed import Split
from drtune.sources.archives import MADE_FROM
from drtune.sources.columns import Naming
from drtune.sources.record import read_record
from drtune.sources.sources import read_source

CATALOG = Path(__file__).resolve().parents[2] / "catalog"


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def extracted(name: str, downloads: Path) -> Path:
    """The folder that an extracted record lies in, marked as finished."""
    files = [archive.model_dump() for archive in read_record(CATALOG / f"{name}.yaml").files]
    put(downloads / name / "extracted" / MADE_FROM, json.dumps(files))
    return downloads / name / "extracted"


def test_digits_are_a_record_without_files(tmp_path):
    source = read_source(str(CATALOG / "digits.yaml"), tmp_path)
    assert len(source.parts[Split.TRAIN]) == 1797
    assert (source.name, source.licence, source.classes) == ("digits", "CC BY 4.0", tuple("0123456789"))
    assert list(tmp_path.iterdir()) == []


def test_folder(tmp_path):
    put(tmp_path / "pets.v2" / "cat" / "1.jpg", "x")
    put(tmp_path / "pets.v2" / "dog" / "1.jpg", "y")
    source = read_source(str(tmp_path / "pets.v2"), tmp_path)
    assert (source.classes, source.name, source.title) == (("cat", "dog"), "pets.v2", "pets.v2")


def test_a_table_in_a_folder_has_the_labels(tmp_path):
    for name in ("cat/1.jpg", "dog/2.jpg", "labels.csv"):
        put(tmp_path / "pets" / name, "image,label\n1,x\n2,y\n")
    assert read_source(str(tmp_path / "pets"), tmp_path).classes == ("x", "y")
    (tmp_path / "pets/labels.csv").rename(tmp_path / "pets/train.csv")
    assert read_source(str(tmp_path / "pets"), tmp_path).classes == ("cat", "dog")
    assert read_source(str(tmp_path / "pets"), tmp_path, None, Naming("train.csv")).classes == ("x", "y")
    with pytest.raises(DataError, match=r"dtd\.yaml is a record, which has labels; leave both as shipped"):
        read_source(str(CATALOG / "dtd.yaml"), tmp_path, None, Naming("train.csv"))


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("pets", DataError, r"data\.source '.*pets': no such folder"),
        ("pets.zip", DataError, r"data\.source '.*pets\.zip': is a file; unpack it and name the folder"),
        ("oxford_pet.yaml", ConfigError, r"oxford_pet\.yaml: no such file"),
    ],
)
def test_what_is_neither(tmp_path, name, error, text):
    put(tmp_path / "pets.zip", "x")
    with pytest.raises(error, match=text):
        read_source(str(tmp_path / name), tmp_path)


def dtd(tree: Path, classes: int) -> None:
    for split in ("train", "val", "test"):
        lines = [f"texture{number:02d}/{split}.jpg" for number in range(classes)]
        put(tree / "dtd" / "dtd" / "labels" / f"{split}1.txt", "\n".join(lines))
        for line in lines:
            put(tree / "dtd" / "dtd" / "images" / line, line)


def test_published_set_from_its_extracted_tree(tmp_path):
    dtd(extracted("dtd", tmp_path), 47)
    source = read_source(str(CATALOG / "dtd.yaml"), tmp_path)
    assert (len(source.classes), source.licence, list(source.parts)) == (47, "research purposes", list(Split))
    assert source.parts[Split.VAL][3].id == "dtd/dtd/images/texture03/val.jpg"
    assert source.name == "dtd"


def test_tree_that_is_not_whole(tmp_path):
    dtd(extracted("dtd", tmp_path), 40)
    with pytest.raises(DataError, match="it holds 40 classes, expected 47.*delete that folder"):
        read_source(str(CATALOG / "dtd.yaml"), tmp_path)
    tree = extracted("food101", tmp_path)
    text = rf"food101\.yaml: {tree} is not whole, or not of the layout food101 .*No such file .*train\.json"
    with pytest.raises(DataError, match=text):
        read_source(str(CATALOG / "food101.yaml"), tmp_path)


def test_a_record_of_ones_own_is_fetched_checked_and_read_again_after_a_change(tmp_path):
    images = tmp_path / "mine.zip"
    with zipfile.ZipFile(images, "w") as archive:
        for name in ("cat/1.jpg", "dog/2.jpg"):
            archive.writestr(f"mine/{name}", name)
    record = tmp_path / "mine.yaml"
    text = (CATALOG / "eurosat.yaml").read_text().split("classes:")[0]
    text += "classes: 2\nsplit: none\nlayout: folders\nfiles:\n"
    text += f"  - {{url: 'file://{images}', sha256: {sha256(images.read_bytes()).hexdigest()}}}\n"
    record.write_text(text)
    source = read_source(str(record), tmp_path / "downloads")
    assert [row.load() for row in source.parts["train"]] == [b"cat/1.jpg", b"dog/2.jpg"]
    record.write_text(text.replace("}", ", into: deep}"))
    shutil.rmtree(tmp_path / "downloads/mine/extracted/mine/cat")
    source = read_source(str(record), tmp_path / "downloads")
    assert [row.id for row in source.parts["train"]] == ["deep/mine/cat/1.jpg", "deep/mine/dog/2.jpg"]


def test_cars_say_what_to_put_where(tmp_path):
    with pytest.raises(DataError) as caught:
        read_source(str(CATALOG / "stanford_cars.yaml"), tmp_path)
    text = str(caught.value)
    assert "its host is gone" in text
    assert f"put into {tmp_path / 'stanford_cars'}/" in text
    for file in ("car_devkit.tgz", "cars_train.tgz", "cars_test.tgz", "cars_test_annos_withlabels.mat"):
        assert f"  {file}  from https://ai.stanford.edu/" in text
