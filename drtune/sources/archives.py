"""Fetch published archives once, verify and unpack them; say what to put where when the network fails."""

import errno
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from torchvision.datasets.utils import extract_archive

from drtune.base.errors import DataError
from drtune.base.files import replacing

Fetching = Callable[[str, int, int], None]
"""(file name, bytes so far, bytes in all or 0 where the server does not say)"""

CHUNK = 1024**2
TIMEOUT_S = 60
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Archive:
    """One published file.

    Attributes:
        url: where it is, or was, published.
        md5: as published; None where nobody publishes one.
        into: folder inside the extracted tree.
        inner: an archive inside this one that is unpacked as well.
        beside: the archive itself is wanted in the extracted tree too.
        gone: the host no longer answers; only a copy put there by hand is used.
    """

    url: str
    md5: str | None
    into: str = ""
    inner: str | None = None
    beside: bool = False
    gone: bool = False

    @property
    def file(self) -> str:
        """File name in the download folder."""
        return Path(urlsplit(self.url).path).name


def obtain(name: str, archives: Sequence[Archive], downloads: Path, fetching: Fetching | None) -> Path:
    """Return the extracted tree of a data set, fetching and unpacking only what is not there yet.

    Archives lie in `downloads/NAME/FILE`, the tree in `downloads/NAME/extracted`; the tree appears complete
    or not at all.

    Raises:
        DataError: a file cannot be fetched, fails its checksum or cannot be unpacked; says what to do.
    """
    home = downloads / name
    tree = home / "extracted"
    if tree.is_dir():
        return tree
    for archive in archives:
        if (home / archive.file).is_file():
            check(home / archive.file, archive.md5)
        else:
            fetch(name, archive, archives, home, fetching)
    with replacing(tree) as fresh:
        for archive in archives:
            place(archive, home / archive.file, fresh / archive.into)
    return tree


def check(path: Path, md5: str | None) -> None:
    """Refuse an archive that is not the published one.

    Raises:
        DataError: its checksum differs.
    """
    if difference := mismatch(path, md5):
        raise DataError(f"{path}: {difference}; it is damaged or another version: delete it and run again")


def mismatch(path: Path, md5: str | None) -> str | None:
    """Compare a file with its published checksum; say how they differ, or None."""
    if md5 is None:
        return None
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if found == md5 else f"md5 is {found}, published is {md5}"


def fetch(
    name: str, archive: Archive, archives: Sequence[Archive], home: Path, fetching: Fetching | None
) -> None:
    """Download one archive, aside and then renamed.

    Raises:
        DataError: the network or the host fails, or the file is not the published one.
    """
    if archive.gone:
        raise DataError(by_hand(name, archive, archives, home, "its host is gone"))
    try:
        with replacing(home / archive.file) as fresh:
            download(archive, fresh, fetching)
            if difference := mismatch(fresh, archive.md5):
                raise OSError(f"what came is not the published file: {difference}")
    except (OSError, http.client.HTTPException) as fault:
        if isinstance(fault, OSError) and fault.errno in DISK_FULL:
            raise
        raise DataError(by_hand(name, archive, archives, home, str(fault) or type(fault).__name__)) from None


def download(archive: Archive, target: Path, fetching: Fetching | None) -> None:
    """Stream one URL into a file.

    Raises:
        OSError: the network fails, or the connection ends before the announced length.
    """
    request = urllib.request.Request(archive.url, headers={"User-Agent": "drtune"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, target.open("wb") as stream:
        total = int(answer.headers.get("Content-Length") or 0)
        done = 0
        while chunk := answer.read(CHUNK):
            stream.write(chunk)
            done += len(chunk)
            if fetching is not None:
                fetching(archive.file, done, total)
    if total and done != total:
        raise OSError(f"connection ended after {done} of {total} bytes")


def by_hand(name: str, archive: Archive, archives: Sequence[Archive], home: Path, reason: str) -> str:
    """Say what failed and which files to put where."""
    missing = [item for item in archives if not (home / item.file).is_file()]
    lines = [
        f"  {item.file}  from {item.url}" + (f"  (md5 {item.md5})" if item.md5 else "") for item in missing
    ]
    return "\n".join(
        [
            f"data.name {name}: cannot fetch {archive.file} from {archive.url}: {reason}",
            f"get by other means, put into {home}/ and run again (what is there is not fetched again):",
            *lines,
        ]
    )


def place(archive: Archive, path: Path, folder: Path) -> None:
    """Unpack an archive into `folder`; a file that is none is put there as it is.

    Raises:
        DataError: the archive is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packed = archive.file.endswith((".tgz", ".tar.gz", ".zip"))
    if archive.beside or not packed:
        link_or_copy(path, folder / archive.file)
    if not packed:
        return
    try:
        extract_archive(path, folder)
        if archive.inner is not None:
            extract_archive(folder / archive.inner, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError) as fault:
        if isinstance(fault, OSError) and fault.errno in DISK_FULL:
            raise
        raise DataError(f"{path} cannot be unpacked ({fault}); delete it and run again") from None


def link_or_copy(path: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no hard links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
