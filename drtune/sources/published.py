"""Read the extracted trees of published data sets through torchvision's own classes.

Each reader takes the tree (`archives.obtain`) and returns class names and the parts the publisher sets apart.
Files keep their bytes; arrays become PNG. torchvision 0.29 keeps the file lists in attributes that are not
public; the tests read a small copy of every published layout, so a change there shows.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import datasets

from drtune.data.packed import Split
from drtune.sources.samples import Parts, Sample, array_samples, file_sample

Listing = tuple[list[str], Parts]
"""Class names in label order, and the parts."""

Reader = Callable[[Path], Listing]

TRAIN, VAL, TEST = Split.TRAIN, Split.VAL, Split.TEST

IMAGEWOOF = {
    "n02086240": ("Shih-Tzu",),
    "n02087394": ("Rhodesian ridgeback",),
    "n02088364": ("beagle",),
    "n02089973": ("English foxhound",),
    "n02093754": ("Border terrier",),
    "n02096294": ("Australian terrier",),
    "n02099601": ("golden retriever",),
    "n02105641": ("Old English sheepdog",),
    "n02111889": ("Samoyed",),
    "n02115641": ("dingo",),
}
OMNIGLOT_VAL = (15, 16)
OMNIGLOT_TEST = (17, 18, 19, 20)
"""Drawers (the number after `_` in a file name, 1..20) set apart; one writer never stands in two parts."""


def files(tree: Path, paths: Iterable[Any], labels: Iterable[int]) -> list[Sample]:
    """Samples of image files, sorted by id, because directories have no order of their own."""
    rows = [file_sample(Path(path), tree, int(label)) for path, label in zip(paths, labels, strict=True)]
    return sorted(rows, key=lambda row: row.id)


def cifar10(tree: Path) -> Listing:
    """CIFAR-10: arrays, train and test."""
    return cifar(datasets.CIFAR10, "cifar10", tree)


def cifar100(tree: Path) -> Listing:
    """CIFAR-100 with its fine labels: arrays, train and test."""
    return cifar(datasets.CIFAR100, "cifar100", tree)


def cifar(kind: Any, name: str, tree: Path) -> Listing:
    """Either CIFAR."""
    sets = {TRAIN: kind(tree, train=True), TEST: kind(tree, train=False)}
    parts = {split: array_samples(f"{name}/{split}", part.data, part.targets) for split, part in sets.items()}
    return sets[TRAIN].classes, parts


def svhn(tree: Path) -> Listing:
    """SVHN, cropped digits: arrays, train and test; the additional easy images are not used."""
    parts: Parts = {}
    for split in (TRAIN, TEST):
        part = datasets.SVHN(tree, split=split.value)
        parts[split] = array_samples(f"svhn/{split}", part.data.transpose(0, 2, 3, 1), part.labels)
    return [str(digit) for digit in range(10)], parts


def stl10(tree: Path) -> Listing:
    """STL-10: arrays, the 5,000 labelled train images and test."""
    sets = {split: datasets.STL10(tree, split=split.value) for split in (TRAIN, TEST)}
    parts = {
        split: array_samples(
            f"stl10/{split}", np.ascontiguousarray(part.data.transpose(0, 2, 3, 1)), part.labels
        )
        for split, part in sets.items()
    }
    return sets[TRAIN].classes, parts


def oxford_pets(tree: Path) -> Listing:
    """Oxford-IIIT Pet: trainval and test."""
    sets = {TRAIN: datasets.OxfordIIITPet(tree, "trainval"), TEST: datasets.OxfordIIITPet(tree, "test")}
    parts = {split: files(tree, part._images, part._labels) for split, part in sets.items()}
    return sets[TRAIN].classes, parts


def flowers102(tree: Path) -> Listing:
    """Oxford Flowers 102: train, val and test as torchvision offers them."""
    return three_lists(datasets.Flowers102, tree)


def dtd(tree: Path) -> Listing:
    """Describable Textures: train, val and test of partition 1."""
    return three_lists(datasets.DTD, tree)


def fgvc_aircraft(tree: Path) -> Listing:
    """FGVC Aircraft, 100 variants: train, val and test."""
    return three_lists(datasets.FGVCAircraft, tree)


def food101(tree: Path) -> Listing:
    """Food-101: train and test."""
    return lists(datasets.Food101, tree, (TRAIN, TEST))


def three_lists(kind: Any, tree: Path) -> Listing:
    """A torchvision class with lists of files for train, val and test."""
    return lists(kind, tree, (TRAIN, VAL, TEST))


def lists(kind: Any, tree: Path, splits: tuple[Split, ...]) -> Listing:
    """A torchvision class that keeps `_image_files` and `_labels`."""
    sets = {split: kind(tree, split=split.value) for split in splits}
    parts = {split: files(tree, part._image_files, part._labels) for split, part in sets.items()}
    return list(sets[TRAIN].classes), parts


def stanford_cars(tree: Path) -> Listing:
    """Stanford Cars: train and test."""
    sets = {split: datasets.StanfordCars(tree, split=split.value) for split in (TRAIN, TEST)}
    parts = {split: files(tree, *zip(*part._samples, strict=True)) for split, part in sets.items()}
    return sets[TRAIN].classes, parts


def caltech101(tree: Path) -> Listing:
    """Caltech-101 without its background class; the publisher sets nothing apart."""
    whole = datasets.Caltech101(tree)
    folders = [Path(whole.root) / "101_ObjectCategories" / name for name in whole.categories]
    paths = [
        folders[label] / f"image_{number:04d}.jpg" for label, number in zip(whole.y, whole.index, strict=True)
    ]
    return whole.categories, {TRAIN: files(tree, paths, whole.y)}


def eurosat(tree: Path) -> Listing:
    """EuroSAT in RGB; the publisher sets nothing apart."""
    whole = datasets.EuroSAT(tree)
    return whole.classes, {TRAIN: files(tree, *zip(*whole.samples, strict=True))}


def sun397(tree: Path) -> Listing:
    """SUN397, all 108,754 images; torchvision offers no split."""
    whole = datasets.SUN397(tree)
    return whole.classes, {TRAIN: files(tree, whole._image_files, whole._labels)}


def omniglot(tree: Path) -> Listing:
    """Omniglot's background set as 964 characters, split by drawer: 14 train, 2 val, 4 test.

    The background/evaluation split of the publisher has different characters on either side (one-shot
    learning), which no classifier can be trained and tested on; the evaluation set is left for transfer.
    """
    whole = datasets.Omniglot(tree, background=True)
    folder = Path(whole.target_folder)
    classes = sorted(whole._characters)
    labels = {name: label for label, name in enumerate(classes)}
    parts: Parts = {TRAIN: [], VAL: [], TEST: []}
    for file_name, character in whole._flat_character_images:
        name = whole._characters[character]
        drawer = int(Path(file_name).stem.split("_")[1])
        split = TEST if drawer in OMNIGLOT_TEST else VAL if drawer in OMNIGLOT_VAL else TRAIN
        parts[split].append(file_sample(folder / name / file_name, tree, labels[name]))
    return classes, {split: sorted(rows, key=lambda row: row.id) for split, rows in parts.items()}


class Imagewoof(datasets.Imagenette):  # type: ignore[misc]
    """Imagewoof lies on the disk as Imagenette does; torchvision has no class for it."""

    _ARCHIVES: ClassVar = {"320px": ("imagewoof2-320.tgz", "")}
    _WNID_TO_CLASS: ClassVar = IMAGEWOOF


def imagenet20(tree: Path) -> Listing:
    """Imagenette and Imagewoof together, 320 pixels: train, and their val as test."""
    parts: Parts = {TRAIN: [], TEST: []}
    names = {**datasets.Imagenette._WNID_TO_CLASS, **IMAGEWOOF}
    wnids = sorted(names)
    for kind in (datasets.Imagenette, Imagewoof):
        for split, published in ((TRAIN, "train"), (TEST, "val")):
            part = kind(tree, split=published, size="320px")
            paths = [path for path, _ in part._samples]
            labels = [wnids.index(part.wnids[label]) for _, label in part._samples]
            parts[split] += files(tree, paths, labels)
    return [names[wnid][0] for wnid in wnids], parts
