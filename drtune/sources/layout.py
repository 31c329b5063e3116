"""Which folders of a user are parts (train, val, test) and which are classes; where that is open, ask."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from drtune.base.errors import DataError
from drtune.base.faults import some
from drtune.base.files import LONGEST_PART
from drtune.data.packed import Split
from drtune.sources.samples import CONTROL, is_text
from drtune.sources.walk import folders_in, pictures_in

OOD = "ood"
NAMES = {
    "train": Split.TRAIN, "training": Split.TRAIN, "val": Split.VAL, "valid": Split.VAL,
    "validation": Split.VAL, "dev": Split.VAL, "test": Split.TEST, "testing": Split.TEST,
}  # fmt: skip
"""What people call the parts, in small letters."""
PART_WORD = re.compile(
    r"(?<![^\W\d_])(train(ing)?|val(id(ation)?)?|dev|test(ing)?|eval(uation)?)(?=(set|data|images)?(\W|\d|_|$))"
)
"""Such a word within a longer name, no other letter before it: seg_train, testset, val2017; not contest."""
LAYOUTS = (
    "expected CLASS/* or train/CLASS/* (with test/CLASS/*, val/CLASS/* and ood/NAME/CLASS/* if you have "
    "them), or images with a labels.csv"
)
IS_CLASS = "If they are classes, put all class folders into one folder `train`"


class Place(NamedTuple):
    """A folder of images of one class.

    Attributes:
        part: train, val, test or `ood/NAME`.
        name: of the class.
        folder: at any depth below it lie images.
    """

    part: str
    name: str
    folder: Path


class Layout(NamedTuple):
    """How a folder is laid out.

    Attributes:
        places: the class folders.
        parts: names of the parts that the folder sets apart, in words; empty where it sets none apart.
        beside: images that lie beside the class folders.
        warnings: what a person should know.
    """

    places: list[Place]
    parts: str
    beside: list[Path]
    warnings: list[str]


def part_named(name: str) -> str | None:
    """The part that a name stands for: train, val, test, ood, or None."""
    plain = name.strip().casefold()
    return OOD if plain == OOD else NAMES.get(plain)


def layout_of(root: Path) -> Layout:
    """Recognise the layout of a folder.

    Raises:
        DataError: it cannot be understood, or can be in two ways.
    """
    tops = folders_in(root)
    split = [top for top in tops if part_named(top.name)]
    others = [top for top in tops if not part_named(top.name)]
    train = [top for top in split if part_named(top.name) == Split.TRAIN]
    if train and (not others or any(map(folders_in, train))):
        return parted(root, split, others)
    asked = [top.name for top in split if part_named(top.name) != Split.TRAIN]
    if asked and not others:
        raise DataError(f"data.source '{root}': holds {', '.join(asked)} but no train; {LAYOUTS}")
    if asked:
        beside = f"{some(asked)} beside {some(top.name for top in others)}"
        raise DataError(
            f"data.source '{root}': holds {beside}. If they are parts, move them away or lay out "
            f"train/CLASS/*, test/CLASS/*. {IS_CLASS}"
        )
    check_wrapping(root, tops)
    check_words(root, [top.name for top in tops])
    if crosswise := list(parts_within(root, tops)):
        given = in_words(place.folder.name for place in crosswise)
        return Layout(crosswise, f"{given} as given by folders within each class", pictures_in(root), [])
    warnings = [f"the folder {top.name} holds images alone and is read as a class" for top in train]
    places = [Place(Split.TRAIN, class_name(top), top) for top in tops]
    return Layout(places, "", pictures_in(root), warnings)


def parted(root: Path, split: list[Path], others: list[Path]) -> Layout:
    """The layout of a folder that holds train, and perhaps val, test and ood.

    Raises:
        DataError: a folder beside train with an unknown meaning, two of one meaning, a part without classes.
    """
    if others:
        both = f"{in_words(top.name for top in split)} and also {', '.join(top.name for top in others)}"
        known = ", ".join(sorted({*NAMES, OOD}))
        raise DataError(
            f"data.source '{root}': holds {both}; understood are {known}: rename or move the others"
        )
    parts: dict[str, Path] = {}
    for top in sorted(split, key=lambda top: (part_order(top), top.name)):
        name = str(part_named(top.name))
        if name in parts:
            both = f"{parts[name].name} and {top.name} both mean {name}"
            raise DataError(f"data.source '{root}': {both}; merge them, or move one away")
        parts[name] = top
    given = in_words(top.name for name, top in parts.items() if name != OOD)
    for folder in folders_in(parts.pop(OOD)) if OOD in parts else []:
        parts[ood_named(folder.name)] = folder
    parts = {name: unwrapped(folder) for name, folder in parts.items()}
    for folder in parts.values():
        check_part(folder)
    places = [Place(name, class_name(c), c) for name, folder in parts.items() for c in folders_in(folder)]
    beside = [picture for folder in (root, *parts.values()) for picture in pictures_in(folder)]
    return Layout(places, f"{given} as given by folders", beside, [])


def part_order(top: Path) -> int:
    """Place of a part among train, val, test, ood."""
    return [*Split, OOD].index(part_named(top.name) or OOD)


def in_words(folders: Iterable[str]) -> str:
    """The parts that folders stand for, each with the folder's name where that is another."""
    pairs = {(part_named(name) or name, name) for name in folders}
    order = [*Split, OOD]
    ordered = sorted(pairs, key=lambda pair: (order.index(pair[0]), pair[1]))
    return ", ".join(part if part == name else f"{part} ({name})" for part, name in ordered)


def ood_named(name: str) -> str:
    """The part of an ood set.

    Raises:
        DataError: a name that its file could not have.
    """
    if re.search(r"-\d{3}$", name):  # the name of a further shard, see packed.shard_path
        raise DataError(f"ood/{name}: the name of an ood set must not end in -NNN; rename it")
    return f"{OOD}/{name}"


def unwrapped(folder: Path) -> Path:
    """A part, or the folder of the same meaning that is all it holds: seg_train/seg_train, train/train."""
    inner = folders_in(folder)
    same = len(inner) == 1 and part_named(inner[0].name) == part_named(folder.name) is not None
    return inner[0] if same and folders_in(inner[0]) and not pictures_in(folder) else folder


def check_part(folder: Path) -> None:
    """Refuse a part without class folders, or one that holds parts itself.

    Raises:
        DataError: saying what it holds.
    """
    inner, loose = folders_in(folder), pictures_in(folder)
    if not inner:
        raise DataError(
            f"{folder}: holds images ({len(loose)}) but no class folders; a part needs CLASS/*: move it away "
            "if it has no labels, or list them in a labels.csv"
        )
    meant = {part_named(entry.name) for entry in inner}
    if len(meant) > 1 and None not in meant:
        names = some(entry.name for entry in inner)
        raise DataError(f"{folder}: holds {names} itself; did you mean data.source: {folder}?")


def check_wrapping(root: Path, tops: list[Path]) -> None:
    """Recognise a data set that lies one folder deeper, as archives often unpack."""
    if len(tops) == 1 and len(folders_in(tops[0])) > 1:
        raise DataError(
            f"data.source '{root}': holds the one folder {tops[0].name}, which holds folders itself; "
            f"did you mean data.source: {tops[0]}?"
        )


def check_words(root: Path, names: list[str]) -> None:
    """Refuse names that differ by `train`, `test` or the like alone: seg_train and seg_test, val2017.

    Raises:
        DataError: naming them.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(PART_WORD.sub("*", name.casefold()), []).append(name)
    if found := next((group for rest, group in alike.items() if "*" in rest and len(group) > 1), None):
        raise DataError(
            f"data.source '{root}': {some(found)} look like parts, not classes; rename them train, val and "
            f"test, and move away what else there is. {IS_CLASS}"
        )


def parts_within(root: Path, tops: list[Path]) -> Iterator[Place]:
    """The places of a folder that is laid out the other way round: CLASS/train/*, CLASS/test/*.

    Raises:
        DataError: only some classes are, or a class holds more than that.
    """
    inner = {top: folders_in(top) for top in tops}
    meant = {top: [part_named(entry.name) for entry in entries] for top, entries in inner.items()}
    divided = next((top for top, parts in meant.items() if {Split.VAL, Split.TEST} & {*parts}), None)
    if divided is None:
        return
    for top, parts in meant.items():
        odd = {*parts} - {*Split} or Split.TRAIN not in parts or len({*parts}) < len(parts)
        if odd or pictures_in(top):
            found = some(entry.name for entry in [*inner[top], *pictures_in(top)]) or "nothing"
            raise DataError(
                f"data.source '{root}': {divided.name} holds folders that are named as parts, {top.name} "
                f"holds {found}; give every class train, val or test and nothing else, or rename such folders"
            )
    for top, entries in inner.items():
        for entry in entries:
            yield Place(str(part_named(entry.name)), class_name(top), entry)


def class_name(folder: Path) -> str:
    """The name of a class: its folder's, in the composed form of Unicode, whichever the disk has.

    Raises:
        DataError: a name that is no line of text.
    """
    if problem := name_problem(folder.name):
        raise DataError(f"class folder {folder.name!r} in {folder.parent}: {problem}; rename it")
    return unicodedata.normalize("NFC", folder.name)


def name_problem(name: str) -> str:
    """Why a text cannot name a class; '' where it can."""
    if not is_text(name):
        return "its name is not valid UTF-8"
    if CONTROL.search(name):
        return "its name holds a line break or another control character"
    return "its name is longer than 255 letters" if len(name) > LONGEST_PART else ""
