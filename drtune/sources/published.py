"""The layouts of published data sets: extracted trees of image files to rows.

Each reader takes the tree (`archives.obtain`) and returns class names and the parts the publisher sets apart;
a record of catalog/ names the reader as its `layout`. Files keep their bytes. The tests read a small copy of
every layout. torchvision reads most of these layouts too, but takes seconds to import.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from drtune.base.files import inside
from drtune.data.packed import Split
from drtune.sources.arrays import cifar10, cifar100, mat, stl10, svhn
from drtune.sources.digits import digits
from drtune.sources.folder import list_folder
from drtune.sources.samples import Listing, Parts, Sample, file_sample
from drtune.sources.walk import folders_in, visible

TRAIN, VAL, TEST = Split.TRAIN, Split.VAL, Split.TEST

OMNIGLOT_VAL = (15, 16)
OMNIGLOT_TEST = (17, 18, 19, 20)
"""Drawers (the number after `_` in a file name, 1..20) set apart; one writer never stands in two parts."""


def files(tree: Path, rows: Iterable[tuple[Path, int]]) -> list[Sample]:
    """Samples of image files, sorted by id, because directories have no order of their own.

    Raises:
        UntrustedError: a row names a file outside the tree.
    """
    samples = (file_sample(inside(tree, os.path.relpath(path, tree)), tree, label) for path, label in rows)
    return sorted(samples, key=lambda row: row.id)


def lines(path: Path) -> list[str]:
    """The lines of a text file, without the white space around them."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]


def folders(tree: Path) -> Listing:
    """A tree laid out as a folder of one's own; folders that wrap the whole are passed through."""
    root = tree
    while len(entries := visible(root)) == 1 and entries[0].is_dir():
        root = entries[0]
    return list_folder(root, tree)


def oxford_pets(tree: Path) -> Listing:
    """Oxford-IIIT Pet: trainval and test, one line `IMAGE CLASS SPECIES BREED` an image."""
    base = tree / "oxford-iiit-pet"
    names: dict[int, str] = {}
    parts: Parts = {}
    for split, part in ((TRAIN, "trainval"), (TEST, "test")):
        rows = [
            (image, int(label) - 1)
            for image, label, *_ in map(str.split, lines(base / "annotations" / f"{part}.txt"))
        ]
        names |= {label: image.rpartition("_")[0].replace("_", " ").title() for image, label in rows}
        parts[split] = files(tree, ((base / "images" / f"{image}.jpg", label) for image, label in rows))
    return [names[label] for label in sorted(names)], parts


def flowers102(tree: Path) -> Listing:
    """Oxford Flowers 102: train, val and test; classes are numbers 1..102, which the record names."""
    base = tree / "flowers-102"
    numbers = [int(number) for number in mat(base / "imagelabels.mat")["labels"]]
    ids = mat(base / "setid.mat")
    parts: Parts = {
        split: files(tree, ((base / "jpg" / f"image_{i:05d}.jpg", numbers[i - 1] - 1) for i in ids[key]))
        for split, key in ((TRAIN, "trnid"), (VAL, "valid"), (TEST, "tstid"))
    }
    return [str(number) for number in range(1, 103)], parts


def dtd(tree: Path) -> Listing:
    """Describable Textures: train, val and test of partition 1."""
    base = tree / "dtd" / "dtd"
    listed = {split: lines(base / "labels" / f"{split}1.txt") for split in Split}
    classes = sorted({line.split("/")[0] for line in listed[TRAIN]})
    parts: Parts = {
        split: files(tree, ((base / "images" / row, classes.index(row.split("/")[0])) for row in rows))
        for split, rows in listed.items()
    }
    return classes, parts


def fgvc_aircraft(tree: Path) -> Listing:
    """FGVC Aircraft, 100 variants: train, val and test, one line `IMAGE VARIANT` an image."""
    base = tree / "fgvc-aircraft-2013b" / "data"
    classes = lines(base / "variants.txt")
    parts: Parts = {}
    for split in Split:
        rows = [line.split(" ", 1) for line in lines(base / f"images_variant_{split}.txt")]
        parts[split] = files(
            tree, ((base / "images" / f"{image}.jpg", classes.index(name)) for image, name in rows)
        )
    return classes, parts


def food101(tree: Path) -> Listing:
    """Food-101: train and test, {class: [CLASS/IMAGE, ...]}."""
    base = tree / "food-101"
    parts: Parts = {}
    for split in (TRAIN, TEST):
        images = json.loads((base / "meta" / f"{split}.json").read_text(encoding="utf-8"))
        classes = sorted(images)
        parts[split] = files(
            tree,
            (
                (base / "images" / f"{image}.jpg", label)
                for label, name in enumerate(classes)
                for image in images[name]
            ),
        )
    return classes, parts


def stanford_cars(tree: Path) -> Listing:
    """Stanford Cars: train and test."""
    base = tree / "stanford_cars"
    tables = {TRAIN: base / "devkit/cars_train_annos.mat", TEST: base / "cars_test_annos_withlabels.mat"}
    parts: Parts = {
        split: files(
            tree,
            (
                (base / f"cars_{split}" / str(row["fname"]), int(row["class"]) - 1)
                for row in mat(table)["annotations"]
            ),
        )
        for split, table in tables.items()
    }
    return [str(name) for name in mat(base / "devkit/cars_meta.mat")["class_names"]], parts


def caltech101(tree: Path) -> Listing:
    """Caltech-101 without its background class; the publisher sets nothing apart."""
    places = [
        place
        for place in folders_in(tree / "caltech101" / "101_ObjectCategories")
        if place.name != "BACKGROUND_Google"
    ]
    rows = ((path, label) for label, place in enumerate(places) for path in visible(place))
    return [place.name for place in places], {TRAIN: files(tree, rows)}


def sun397(tree: Path) -> Listing:
    """SUN397, all 108,754 images; lines of ClassName.txt are `/LETTER/CLASS`."""
    base = tree / "SUN397"
    classes = [line[3:] for line in lines(base / "ClassName.txt")]
    labels = {name: label for label, name in enumerate(classes)}
    rows = ((path, labels[path.parent.relative_to(base).as_posix()[2:]]) for path in base.rglob("sun_*.jpg"))
    return classes, {TRAIN: files(tree, rows)}


def omniglot(tree: Path) -> Listing:
    """Omniglot's background set as 964 characters, split by drawer: 14 train, 2 val, 4 test.

    The background/evaluation split of the publisher has different characters on either side (one-shot
    learning), which no classifier can be trained and tested on; the evaluation set is left for transfer.
    """
    base = tree / "omniglot-py" / "images_background"
    places = sorted(place for alphabet in folders_in(base) for place in folders_in(alphabet))
    rows: dict[Split, list[tuple[Path, int]]] = {split: [] for split in Split}
    for label, place in enumerate(places):
        for path in visible(place):
            drawer = int(path.stem.split("_")[1])
            split = TEST if drawer in OMNIGLOT_TEST else VAL if drawer in OMNIGLOT_VAL else TRAIN
            rows[split].append((path, label))
    classes = [place.relative_to(base).as_posix() for place in places]
    return classes, {split: files(tree, part) for split, part in rows.items()}


def imagenet20(tree: Path) -> Listing:
    """Imagenette and Imagewoof together, 320 pixels: train, and their val as test.

    Classes are WordNet ids, which the record names.
    """
    roots = [tree / "imagenette2-320", tree / "imagewoof2-320"]
    classes = sorted(place.name for root in roots for place in folders_in(root / "train"))
    parts: Parts = {}
    for split, part in ((TRAIN, "train"), (TEST, "val")):
        places = [place for root in roots for place in folders_in(root / part)]
        rows = ((path, classes.index(place.name)) for place in places for path in visible(place))
        parts[split] = files(tree, rows)
    return classes, parts


LAYOUTS: Mapping[str, Callable[[Path], Listing]] = {
    reader.__name__: reader
    for reader in (
        folders,
        digits,
        cifar10,
        cifar100,
        svhn,
        stl10,
        oxford_pets,
        flowers102,
        dtd,
        fgvc_aircraft,
        food101,
        stanford_cars,
        caltech101,
        sun397,
        omniglot,
        imagenet20,
    )
}
"""Name -> reader."""
