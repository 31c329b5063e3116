"""What every source of images hands over: plain rows whose bytes are read when they are needed."""

import errno
import io
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from drtune.base import errors

MOST_BYTES = 1_000_000_000
"""Of one file. The packed form holds less than 2 GiB."""
CONTROL = re.compile(rf"{errors.CONTROL.pattern}|[\n\t]")


class Sample(NamedTuple):
    """One labelled image.

    Attributes:
        id: unique within its source; stable between runs and machines.
        label: index into the classes of its source.
        load: returns the encoded image; for a file, the bytes as they lie on the disk.
        group: what it may not be parted from, a patient say; empty where nothing is known.
    """

    id: str
    label: int
    load: Callable[[], bytes]
    group: str = ""


Parts = dict[str, list[Sample]]
"""By part name: train, those of val and test that the source itself sets apart, then `ood/NAME`."""

Listing = tuple[list[str], Parts]
"""Class names in label order, and the parts."""


@dataclass(frozen=True)
class Source:
    """Images and where they come from.

    Attributes:
        name: of the folder or of the record, without its ending.
        title: for people.
        classes: names in label order.
        parts: the images, by part name.
        origin: homepage, or what else tells where the images are from.
        licence: as the publisher states it, or `unknown`.
        split: how the parts were set apart by the source, in words.
        grouped: what the groups of the samples are, in words; empty where they have none.
        warnings: what a person should know.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    parts: Parts
    origin: str
    licence: str
    split: str
    grouped: str = ""
    warnings: tuple[str, ...] = ()


def file_sample(path: Path, root: Path, label: int) -> Sample:
    """A sample kept in a file; its id is the path below `root`, in one line: a bank lists ids by lines."""
    return Sample(one_line(path.relative_to(root).as_posix()), label, partial(read_file, path))


def read_file(path: Path) -> bytes:
    """Read a regular file; a pipe or a device, which would block for ever or never end, is not opened.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than any picture.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError("not a regular file")
    if about.st_size > MOST_BYTES:
        raise OSError(f"{about.st_size / 1e9:,.1f} GB, and a picture may have {MOST_BYTES / 1e9:g}")
    return path.read_bytes()


def not_there() -> bytes:
    """Stand for the bytes of a file that a table names and that is not there."""
    raise FileNotFoundError(errno.ENOENT, "no such file below the folder")


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: a file's may hold any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A name in one line of text; what cannot be written is `?`."""
    return one_line(name.encode("utf-8", "replace").decode())


def one_line(name: str) -> str:
    """A name with its line breaks and other control characters as Python writes them: `\\n`."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


def array_samples(prefix: str, images: Any, labels: Iterable[int]) -> list[Sample]:
    """Samples kept in a uint8 array [N, H, W] or [N, H, W, 3]; their ids are `prefix/00000`, ..."""
    return [
        Sample(f"{prefix}/{row:05d}", int(label), partial(png_bytes, images[row]))
        for row, label in enumerate(labels)
    ]


def png_bytes(pixels: Any) -> bytes:
    """Encode a uint8 array [H, W] or [H, W, 3] as PNG, which loses nothing."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()
