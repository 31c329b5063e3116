"""WebDataset shards: tar files in which the files of one sample share a name, `0017.jpg` and `0017.cls`."""

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from drtune.base.errors import UntrustedError
from drtune.sources.archives import MOST_MEMBERS, open_tar
from drtune.sources.shards import Columns, Row

IMAGES = "jpg;jpeg;png;webp"
MOST_LABEL = 1_000_000
"""Bytes of a file that holds a label."""
Sample = dict[str, tarfile.TarInfo]
"""The files of one sample, by ending."""


def webdataset(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    """List the samples of one shard, which stays packed; a sample's id is `NAME/KEY`.

    Raises:
        ValueError: a sample without an image or a label; a shard that is compressed or damaged.
        UntrustedError: a member that is a link or a device.
    """
    endings, label = (columns.image or IMAGES).split(";"), columns.label or "cls"
    ending, _, key = label.partition(".") if label.startswith("json.") else (label, "", "")
    try:
        with open_tar(path, "r:") as archive:
            for sample, held in samples_of(archive, path).items():
                found = [held[kind] for kind in endings if kind in held]
                if len(found) != 1 or ending not in held:
                    what = f"one image ({';'.join(endings)}) and a label ({label})"
                    raise ValueError(f"{name}: sample {sample} holds {', '.join(held)}; expected {what}")
                value = label_of(archive, held[ending], key, f"{name}: sample {sample}")
                load = partial(part_of, path, found[0].offset_data, found[0].size)
                yield Row(f"{name}/{sample}", value, load)
    except tarfile.TarError as fault:
        raise ValueError(f"{name}: is no plain tar file ({fault}); unpack one that is compressed") from None


def samples_of(archive: tarfile.TarFile, path: Path) -> dict[str, Sample]:
    """The files of a shard by sample, in order."""
    samples: dict[str, Sample] = {}
    for number, member in enumerate(archive):
        if number > MOST_MEMBERS:
            raise UntrustedError(f"{path}: holds more than {MOST_MEMBERS:,} files; refused")
        if member.isdir():
            continue
        if not member.isreg() or member.sparse is not None:
            raise UntrustedError(f"{path}: {member.name[:200]!r} is a link or a device; refused")
        folder, slash, file = member.name.removeprefix("./").rpartition("/")
        key, dot, ending = file.partition(".")
        held = samples.setdefault(f"{folder}{slash}{key}", {})
        if not key or not dot or ending.lower() in held:
            raise ValueError(f"{path.name}: {member.name[:200]!r} is no file of a sample, or there twice")
        held[ending.lower()] = member
    return samples


def label_of(archive: tarfile.TarFile, member: tarfile.TarInfo, key: str, about: str) -> int | str:
    """What a small file says: a number, a name, or the value of `key` in its JSON."""
    stream = archive.extractfile(member) if member.size <= MOST_LABEL else None
    text = stream.read().decode("utf-8", "replace").strip() if stream else ""
    try:
        value = json.loads(text)[key] if key else int(text) if text.lstrip("-").isdecimal() else text
    except (ValueError, KeyError, TypeError, RecursionError):
        value = None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f"{about} has no label in {member.name[:200]!r}")
    return value


def part_of(path: Path, offset: int, size: int) -> bytes:
    """A part of a file.

    Raises:
        OSError: the file cannot be read, or ends before.
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(size)
    if len(content) != size:
        raise OSError(f"{path.name} ends within it")
    return content
