"""A folder of images with a table of their labels: `labels.csv` or `labels.parquet`, one row an image.

The table only selects among the files that lie below the folder. It opens no path of its own.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from drtune.base.errors import DataError
from drtune.base.faults import how_many, plain_name, some
from drtune.data.packed import Split
from drtune.sources.checks import listed
from drtune.sources.columns import Naming, Selected, read_table, select
from drtune.sources.folder import in_order, look_alikes
from drtune.sources.layout import NAMES, NOT_PLAIN, OOD, in_words, ood_named, part_named
from drtune.sources.samples import Parts, Sample, Source, not_there, one_line, printable, read_file
from drtune.sources.walk import files_below, is_picture, natural

SAY_WHICH = "say which file a row means: data.columns.image: train/{id}.jpg"
OOD_NAME = re.compile(r"ood/(?!\.)[^/\\\x00-\x1f]+", re.IGNORECASE)


class Row(NamedTuple):
    """One image of a table.

    Attributes:
        image: path of the file below the folder; as the table has it where there is no such file.
        label: class name.
        part: train, val, test or `ood/NAME`; '' where the table says nothing.
        group: what the image may not be parted from; '' likewise.
        number: of the row, as a spreadsheet counts it.
    """

    image: str
    label: str
    part: str
    group: str
    number: int


def table_source(root: Path, path: Path, naming: Naming) -> Source:
    """Read a folder by its table; nothing is decoded here.

    Args:
        root: the folder.
        path: the table within it.
        naming: which column is what.

    Raises:
        DataError: rows with faults, all of them listed, or a table that does not fit the folder.
    """
    table, hidden = read_table(path), list[Path]()
    found = [*files_below(root, frozenset(root.resolve().parents), hidden)]
    files = {entry.relative_to(root).as_posix() for entry in [*found, *hidden] if entry != path}
    selected = select(table, naming)
    rows, warnings = checked_rows(path, selected, finder(root, files), table.first)
    if not any(row.image in files for row in rows):
        near = some(natural(file for file in files if is_picture(file)), 1) or "no images"
        raise DataError(
            f"{path}: none of the files that it names lies in {root}: {rows[0].image!r}, say; there lie "
            f"{near}. {SAY_WHICH}"
        )
    given = "column split"
    if selected.split is None:
        rows, given = parts_by_folder(path, rows) if naming.columns.split else (rows, "")
    left = natural(file for file in {*files} - {row.image for row in rows} if is_picture(file))
    if left:
        names = some(map(printable, left))
        warnings.append(f"images without a row in {path.name}, left out: {len(left)}: {names}")
    classes = natural({row.label for row in rows})
    parts = in_words({row.part for row in rows if row.part in NAMES})
    return Source(
        name=root.resolve().name,
        title=root.resolve().name,
        classes=tuple(classes),
        parts=parts_of(path, root, rows, classes, files),
        origin=f"a folder of images with {path.name}",
        licence="unknown",
        split=f"{parts} as given by {given} of {path.name}" if given else f"{path.name} has no split",
        grouped=f"column {selected.grouped} of {path.name}" if selected.grouped else "",
        warnings=(*warnings, *look_alikes(classes)),
    )


def checked_rows(
    path: Path, selected: Selected, find: Callable[[str], list[str]], first: int
) -> tuple[list[Row], list[str]]:
    """The rows of a table, each image once, and what a person should know.

    Args:
        path: the table, for messages.
        selected: its columns.
        find: the files that a value may mean.
        first: number of the first row.

    Raises:
        DataError: rows without a label, of an unknown part, of several files, or two of one image.
    """
    faults: list[str] = []
    rows: dict[str, Row] = {}
    repeated = 0
    for number, (image, label, part, group) in enumerate(values_of(selected), start=first):
        if not image and not label:
            continue  # an empty line, as spreadsheets leave at the end
        files = find(image)
        row = Row(files[0] if files else image, unicodedata.normalize("NFC", label), part, group, number)
        faults += [f"row {number}: {fault}" for fault in faults_of(row, image, files, selected)]
        before = rows.setdefault(row.image, row)
        repeated += before is not row
        if before[1:4] != row[1:4]:
            other = f"{before.label!r} in row {before.number}, {row.label!r} here"
            what = other if before.label != row.label else f"another split or group in row {before.number}"
            faults.append(f"row {number}: {printable(image)} stands twice: {what}; an image has one row")
    if faults or not rows:
        faults = faults or ["it has no rows; each image needs one, with its label"]
        raise DataError(f"{path}: {how_many(faults)}\n{listed(faults)}\nmend or remove these rows")
    return list(rows.values()), [f"rows of {path.name} that repeat another: {repeated}"] if repeated else []


def values_of(selected: Selected) -> Iterator[tuple[str, str, str, str]]:
    """Image, label, part and group of each row, '' where there is no such column."""
    nothing = [""] * len(selected.image)
    parts = [part_of(text) for text in selected.split or nothing]
    yield from zip(selected.image, selected.label, parts, selected.group or nothing, strict=True)


def part_of(text: str) -> str:
    """The part that a value means: train, val, test, `ood/NAME`; else the value, which is a fault."""
    if OOD_NAME.fullmatch(text):
        return OOD + text[len(OOD) :]
    return NAMES.get(text.casefold(), text)


def faults_of(row: Row, image: str, files: list[str], selected: Selected) -> Iterator[str]:
    """What is wrong with one row."""
    if not image:
        yield "names no image"
    if not row.label:
        yield "has no label"
    elif not plain_name(row.label):
        yield f"label {row.label[:40]!r} {NOT_PLAIN}"
    if len(files) > 1:
        yield f"{image!r} may be {some(map(printable, files))}; {SAY_WHICH}"
    if selected.split is not None and row.part not in NAMES.values() and not OOD_NAME.fullmatch(row.part):
        yield f"split {row.part!r} is none of {', '.join(NAMES)}, ood/NAME"
    if selected.group is not None and not row.group:
        yield f"has no {selected.grouped}, which says what stays together"


def finder(root: Path, files: set[str]) -> Callable[[str], list[str]]:
    """A function from a value of the table to the files that it may mean.

    That is the file of this path; else those whose path ends so, with or without their ending, in any case
    and any form of Unicode.
    """
    ends: dict[str, list[str]] = defaultdict(list)

    def find(value: str) -> list[str]:
        plain = value.replace("\\", "/").removeprefix("./")
        for known in (value, plain, plain.removeprefix(f"{root.absolute().as_posix()}/")):
            if known in files:
                return [known]
        if not ends:
            for file in sorted(filter(is_picture, files)):
                for end in endings_of(file):
                    ends[end].append(file)
        return ends.get(alike(plain), [])

    return find


def endings_of(file: str) -> set[str]:
    """What may stand in a table for a file: a/b.jpg, a/b, b.jpg and b."""
    path = PurePosixPath(file)
    names = [file, path.with_suffix("").as_posix()]
    return {alike("/".join(name.split("/")[start:])) for name in names for start in range(len(path.parts))}


def alike(name: str) -> str:
    """A name without what file systems and programs change: case, and the form of Unicode."""
    return unicodedata.normalize("NFC", name.casefold())


def parts_by_folder(path: Path, rows: list[Row]) -> tuple[list[Row], str]:
    """Take the parts from the top folders of the files, where they are train, val or test.

    Raises:
        DataError: only some of the files lie in such folders.
    """
    meant = [part_named(row.image.split("/")[0]) if "/" in row.image else None for row in rows]
    if {*meant} <= {None, Split.TRAIN} or len({*meant}) == 1:
        return rows, ""
    if not {*meant} <= {*Split} or Split.TRAIN not in meant:
        names = some(sorted({row.image.split("/")[0] for row in rows}))
        raise DataError(
            f"{path}: has no column split, and its images lie in {names}: are these train, val and test? Add "
            "the column, or cut anew with data.columns.split: null"
        )
    return [row._replace(part=str(part)) for row, part in zip(rows, meant, strict=True)], "top folders"


def parts_of(path: Path, root: Path, rows: list[Row], classes: list[str], files: set[str]) -> Parts:
    """The samples of each part; a file that is not there says so when it is read, as a broken one does.

    Raises:
        DataError: none is of train.
    """
    labels = {name: label for label, name in enumerate(classes)}
    parts: Parts = {}
    for row in rows:
        load = partial(read_file, root / row.image) if row.image in files else not_there
        sample = Sample(one_line(row.image), labels[row.label], load, row.group)
        part = ood_named(row.part[len(OOD) + 1 :]) if row.part.startswith(OOD) else row.part or Split.TRAIN
        parts.setdefault(part, []).append(sample)
    if Split.TRAIN not in parts:
        raise DataError(f"{path}: no image is of train, only of {some(parts)}; say so in the column split")
    order = [*Split, *sorted({*parts} - {*Split})]
    return {str(part): in_order(parts[part]) for part in order if part in parts}
