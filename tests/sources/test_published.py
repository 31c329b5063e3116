"""A small copy of every published layout, read as the records of catalog/ say."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as tv

from drtune.base.errors import UntrustedError
from drtune.data.packed import Split
from drtune.sources.published import LAYOUTS, files
from drtune.sources.record import read_record

TRAIN, VAL, TEST = Split.TRAIN, Split.VAL, Split.TEST
RECORDS = {
    path.stem: read_record(path)
    for path in (Path(__file__).resolve().parents[2] / "catalog").glob("*.yaml")
    if "layout:" in path.read_text()
}


def read(name: str, tree: Path):
    """Classes and parts of a tree; the record's names stand for the tree's, whose number may be smaller."""
    record = RECORDS[name]
    classes, parts = LAYOUTS[record.layout](tree)
    return (classes if isinstance(record.classes, int) else list(record.named(classes))), parts


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def images(tree: Path, *names: str) -> None:
    """Files whose bytes are their names: readers must not touch them."""
    for name in names:
        put(tree / name, name)


def content(listing, split):
    """(id, class name) of every row; and that each row gives the bytes of its file."""
    classes, parts = listing
    for row in parts[split]:
        assert row.load() == row.id.encode()
    return [(row.id, classes[row.label]) for row in parts[split]]


def test_the_tests_cover_the_catalogue():
    others = {"digits", "cifar10", "cifar100", "svhn", "stl10"}  # test_digits.py, test_arrays.py
    assert {f"test_{name}" for name in {*RECORDS, *LAYOUTS} - others} <= set(globals())


def test_oxford_pets(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    put(base / "annotations" / "trainval.txt", "Abyssinian_100 1 1 1\namerican_bulldog_2 2 2 1\n")
    put(base / "annotations" / "test.txt", "american_bulldog_7 2 2 1\nAbyssinian_9 1 1 1\n")
    names = ("Abyssinian_100", "american_bulldog_2", "american_bulldog_7", "Abyssinian_9")
    images(tmp_path, *(f"oxford-iiit-pet/images/{name}.jpg" for name in names))
    listing = read("oxford_pets", tmp_path)
    assert listing[0] == ["Abyssinian", "American Bulldog"]
    assert content(listing, TRAIN) == [
        ("oxford-iiit-pet/images/Abyssinian_100.jpg", "Abyssinian"),
        ("oxford-iiit-pet/images/american_bulldog_2.jpg", "American Bulldog"),
    ]
    assert content(listing, TEST)[0] == ("oxford-iiit-pet/images/Abyssinian_9.jpg", "Abyssinian")


def test_flowers102(tmp_path):
    base = tmp_path / "flowers-102"
    images(tmp_path, *(f"flowers-102/jpg/image_0000{number}.jpg" for number in range(1, 7)))
    scipy.io.savemat(base / "imagelabels.mat", {"labels": [77, 1, 102, 77, 1, 102]})
    scipy.io.savemat(base / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})
    listing = read("flowers102", tmp_path)
    assert len(listing[0]) == 102
    assert content(listing, TRAIN)[0] == ("flowers-102/jpg/image_00001.jpg", "passion flower")
    assert [len(listing[1][split]) for split in (TRAIN, VAL, TEST)] == [2, 2, 2]
    assert content(listing, TEST)[1] == ("flowers-102/jpg/image_00006.jpg", "blackberry lily")


def test_dtd(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        lines = [f"{name}/{name}_{number}.jpg" for name in ("banded", "zigzagged")]
        put(tmp_path / "dtd" / "dtd" / "labels" / f"{split}1.txt", "\n".join(lines) + "\n")
        images(tmp_path, *(f"dtd/dtd/images/{line}" for line in lines))
    listing = read("dtd", tmp_path)
    assert content(listing, VAL) == [
        ("dtd/dtd/images/banded/banded_1.jpg", "banded"),
        ("dtd/dtd/images/zigzagged/zigzagged_1.jpg", "zigzagged"),
    ]


def test_caltech101(tmp_path):
    base = "caltech101/101_ObjectCategories"
    images(tmp_path, f"{base}/BACKGROUND_Google/image_0001.jpg", f"{base}/Faces/image_0001.jpg")
    images(tmp_path, f"{base}/ant/image_0001.jpg", f"{base}/ant/image_0002.jpg")
    listing = read("caltech101", tmp_path)
    assert list(listing[1]) == [TRAIN]
    assert content(listing, TRAIN) == [
        (f"{base}/Faces/image_0001.jpg", "Faces"),
        (f"{base}/ant/image_0001.jpg", "ant"),
        (f"{base}/ant/image_0002.jpg", "ant"),
    ]


def test_stanford_cars(tmp_path):
    base = tmp_path / "stanford_cars"
    kind = [("fname", "O"), ("class", "O")]
    for part, path in (("train", "devkit/cars_train_annos"), ("test", "cars_test_annos_withlabels")):
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        rows = np.array([("00001.jpg", 2), ("00002.jpg", 1)], dtype=kind)
        scipy.io.savemat(base / f"{path}.mat", {"annotations": rows})
        images(tmp_path, *(f"stanford_cars/cars_{part}/0000{number}.jpg" for number in (1, 2)))
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    scipy.io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    listing = read("stanford_cars", tmp_path)
    assert content(listing, TRAIN)[0] == ("stanford_cars/cars_train/00001.jpg", "Acura RL Sedan 2012")
    assert content(listing, TEST)[1] == ("stanford_cars/cars_test/00002.jpg", "AM General Hummer SUV 2000")


def test_fgvc_aircraft(tmp_path):
    base = tmp_path / "fgvc-aircraft-2013b" / "data"
    put(base / "variants.txt", "707-320\nBoeing 717\n")
    for number, split in enumerate(("train", "val", "test")):
        put(base / f"images_variant_{split}.txt", f"100{number} Boeing 717\n200{number} 707-320\n")
        images(tmp_path, *(f"fgvc-aircraft-2013b/data/images/{n}00{number}.jpg" for n in (1, 2)))
    listing = read("fgvc_aircraft", tmp_path)
    assert listing[0] == ["707-320", "Boeing 717"]
    assert content(listing, VAL)[0] == ("fgvc-aircraft-2013b/data/images/1001.jpg", "Boeing 717")
    assert list(listing[1]) == [TRAIN, VAL, TEST]


def test_food101(tmp_path):
    for split, number in (("train", 1), ("test", 2)):
        files = {name: [f"{name}/{number}"] for name in ("waffles", "apple_pie")}
        put(tmp_path / "food-101" / "meta" / f"{split}.json", json.dumps(files))
        images(tmp_path, *(f"food-101/images/{name}/{number}.jpg" for name in files))
    listing = read("food101", tmp_path)
    assert content(listing, TEST) == [
        ("food-101/images/apple_pie/2.jpg", "apple_pie"),
        ("food-101/images/waffles/2.jpg", "waffles"),
    ]


def test_eurosat(tmp_path):
    images(tmp_path, "eurosat/2750/Forest/Forest_1.jpg", "eurosat/2750/AnnualCrop/AnnualCrop_1.jpg")
    listing = read("eurosat", tmp_path)
    assert content(listing, TRAIN)[1] == ("eurosat/2750/Forest/Forest_1.jpg", "Forest")


def test_sun397(tmp_path):
    put(tmp_path / "SUN397" / "ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
    images(tmp_path, "SUN397/a/apartment_building/outdoor/sun_2.jpg", "SUN397/a/abbey/sun_1.jpg")
    listing = read("sun397", tmp_path)
    assert content(listing, TRAIN) == [
        ("SUN397/a/abbey/sun_1.jpg", "abbey"),
        ("SUN397/a/apartment_building/outdoor/sun_2.jpg", "apartment_building/outdoor"),
    ]


def test_omniglot(tmp_path):
    base = "omniglot-py/images_background"
    names = [f"{base}/{letter}/character0{number}/0{number}_{drawer:02d}.png"
             for letter in ("Tifinagh", "Greek") for number in (1, 2) for drawer in range(1, 21)]  # fmt: skip
    images(tmp_path, *names)
    listing = read("omniglot", tmp_path)
    assert listing[0] == [f"{letter}/character0{n}" for letter in ("Greek", "Tifinagh") for n in (1, 2)]
    assert [len(listing[1][split]) for split in (TRAIN, VAL, TEST)] == [4 * 14, 4 * 2, 4 * 4]
    assert {row.id[-6:-4] for row in listing[1][TEST]} == {"17", "18", "19", "20"}
    assert {row.id[-6:-4] for row in listing[1][VAL]} == {"15", "16"}
    assert content(listing, VAL)[0] == (f"{base}/Greek/character01/01_15.png", "Greek/character01")


WOOF = ["n02086240", "n02087394", "n02088364", "n02089973", "n02093754"]
WOOF += ["n02096294", "n02099601", "n02105641", "n02111889", "n02115641"]


def test_imagenet20(tmp_path):
    nette, woof = sorted(tv.Imagenette._WNID_TO_CLASS), sorted(WOOF)
    for split in ("train", "val"):
        images(tmp_path, *(f"imagenette2-320/{split}/{wnid}/{wnid}_{split}.JPEG" for wnid in nette))
        images(tmp_path, *(f"imagewoof2-320/{split}/{wnid}/{wnid}_{split}.JPEG" for wnid in woof))
    listing = read("imagenet20", tmp_path)
    assert len(set(nette + woof)) == len(set(listing[0])) == 20
    assert (listing[0][0], listing[0][1], listing[0][-1]) == ("tench", "Shih-Tzu", "parachute")
    named = dict(content(listing, TEST))
    assert named["imagenette2-320/val/n02102040/n02102040_val.JPEG"] == "English springer"
    assert named["imagewoof2-320/val/n02111889/n02111889_val.JPEG"] == "Samoyed"
    assert sorted(row.label for row in listing[1][TRAIN]) == list(range(20))


def test_folders(tmp_path):
    images(
        tmp_path,
        "pets-v2/data/train/cat/1.jpg",
        "pets-v2/data/train/dog/2.jpg",
        "pets-v2/data/ood/drawn/dog/3.jpg",
    )
    classes, parts = LAYOUTS["folders"](tmp_path)
    assert classes == ["cat", "dog"]
    assert {name: [row.id for row in rows] for name, rows in parts.items()} == {
        "train": ["pets-v2/data/train/cat/1.jpg", "pets-v2/data/train/dog/2.jpg"],
        "ood/drawn": ["pets-v2/data/ood/drawn/dog/3.jpg"],
    }


def test_class_names_are_those_of_torchvision():
    assert RECORDS["flowers102"].classes == list(tv.Flowers102.classes)
    names = {wnid: kind[0] for wnid, kind in tv.Imagenette._WNID_TO_CLASS.items()}
    shown = dict(zip(sorted([*names, *WOOF]), RECORDS["imagenet20"].classes, strict=True))
    assert {wnid: shown[wnid] for wnid in names} == names


@pytest.mark.parametrize("row", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg"])
def test_a_row_names_no_file_outside_the_tree(tmp_path, row):
    with pytest.raises(UntrustedError, match="secret.jpg' is no path below"):
        files(
            tmp_path / "tree", [(tmp_path / "tree/images" / row, 0), (tmp_path / "tree/images/.." / row, 0)]
        )
