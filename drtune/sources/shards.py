"""Data sets kept in shards, many samples a file: which files are which part, and what the labels are."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

from drtune.base.files import inside
from drtune.base.settings import Settings
from drtune.data.packed import Split
from drtune.sources.samples import Listing, Sample

PART = re.compile(r"train|val|test|ood/(?!\.)[\w.-]+(?<!-\d{3})")
NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)")


class Columns(Settings):
    """Where a sample has its image and its label; None takes the layout's usual names.

    Attributes:
        image: a column; in tar shards the endings of images, `jpg;png`.
        label: a column; in tar shards an ending, `cls`, or a key of the JSON file, `json.KEY`.
    """

    image: str | None = None
    label: str | None = None


class Row(NamedTuple):
    """A sample whose label is as its shard has it: a number, or a name."""

    id: str
    label: int | str
    load: Callable[[], bytes]


Reader = Callable[[Path, str, Columns], Iterator[Row]]
"""(shard, its name for ids, where image and label are) -> its samples, in order."""


def known_parts(parts: dict[str, str], info: ValidationInfo) -> dict[str, str]:
    """Validate `parts`: asked for by shards, which no folders divide, and by them alone."""
    sharded = info.data.get("layout") in ("parquet", "webdataset")
    fault = ""
    if sharded and Split.TRAIN not in parts:
        fault = "say which files are which part, such as train: data/train-*; train is needed"
    elif parts and not sharded:
        fault = (
            f"are for parquet and webdataset; layout {info.data.get('layout')} has its own: leave them out"
        )
    elif wrong := [part for part in parts if not PART.fullmatch(part)]:
        fault = f"{wrong[0]!r} is unknown; known: train, val, test, ood/NAME (NAME not ending in -NNN)"
    if fault:
        raise PydanticCustomError("sentence", "{text}", {"text": fault})
    return parts


def read_shards(
    tree: Path, read: Reader, parts: Mapping[str, str], columns: Columns, names: list[str] | None
) -> Listing:
    """List the samples of a data set in shards; labels that are names are numbered by `names`, or sorted.

    Args:
        tree: folder that the patterns begin in.
        read: reader of one shard.
        parts: name of a part -> pattern of its files.
        columns: where image and label are.
        names: of the classes, in label order; None where the shards have them.

    Raises:
        ValueError: files that are missing, or labels that are none.
    """
    rows = {
        part: [
            row
            for path in matching(tree, pattern)
            for row in read(path, path.relative_to(tree).as_posix(), columns)
        ]
        for part, pattern in parts.items()
    }
    for part, listed in rows.items():
        if any(isinstance(row.label, int) and row.label < 0 for row in listed):
            raise ValueError(f"{part} has rows of label -1, which stands for none; leave that part out")
    labels = {row.label for part in rows.values() for row in part}
    if all(isinstance(label, int) for label in labels):
        numbers = {label: int(label) for label in labels}
        found = [str(number) for number in range(max(numbers.values(), default=-1) + 1)]
    else:
        found = names or sorted(map(str, labels))
        if strange := sorted({str(label) for label in labels} - {*found}):
            raise ValueError(f"label {strange[0]!r} is none of the record's classes")
        numbers = {label: found.index(str(label)) for label in labels}
    parted = {
        part: [Sample(row.id, numbers[row.label], row.load) for row in listed]
        for part, listed in rows.items()
    }
    return found, parted


def matching(tree: Path, pattern: str) -> list[Path]:
    """The files of a pattern, sorted; `NAME-00002-of-00005` tells how many there must be.

    Raises:
        ValueError: none, or not all.
        UntrustedError: the pattern leads out of the tree.
    """
    inside(tree, pattern)
    found = sorted(path for path in tree.glob(pattern) if path.is_file())
    if not found:
        raise ValueError(f"no file matches {pattern}")
    counts: dict[tuple[str, ...], int] = {}
    for path in found:
        if match := NUMBERED.fullmatch(path.relative_to(tree).as_posix()):
            counts[match[1], match[3]] = counts.get((match[1], match[3]), 0) + 1
    for (name, wanted), count in counts.items():
        if count != int(wanted):
            raise ValueError(f"{count} of the {int(wanted)} files {name}-*-of-{wanted} are there")
    return found
