"""Fetch published archives once, verify and unpack them; say what to put where when the network fails."""

import errno
import hashlib
import http.client
import io
import json
import lzma
import os
import re
import shutil
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, model_validator
from pydantic_core import PydanticCustomError

from drtune.base.errors import DataError, UntrustedError
from drtune.base.faults import hexadecimal
from drtune.base.files import inside, replacing
from drtune.base.settings import Settings

Fetching = Callable[[str, int, int], None]
"""(file name, bytes so far, bytes in all or 0 where the server does not say)"""

CHUNK = 1024**2
TIMEOUT_S = 60
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
MADE_FROM = ".archives.json"
PLAIN_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f]{1,200}")
BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, LookupError,
    ValueError, RuntimeError,
)  # fmt: skip
"""What tarfile and zipfile raise on a damaged archive, an unknown method or one that wants a password."""
MOST_MEMBERS, MOST_BYTES = 20_000_000, 2_000_000_000_000
"""More than ImageNet-21k has."""
INFLATED, ALWAYS = 100, 1_000_000_000
"""How many times its size an archive may unpack to, and bytes that any may; images hardly shrink."""


def names_a_file(url: str) -> str:
    """Validate an address: of the web or of a file system, with a file's name at its end."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file") or not PLAIN_NAME.fullmatch(Path(parts.path).name):
        raise PydanticCustomError("url", "expected the address of a file: http://, https:// or file://")
    return url


class Archive(Settings):
    """One published file: an archive, or a file that is used as it is.

    Attributes:
        url: where it is, or was, published.
        sha256: of the file. One of the two digests must be given; nothing is unpacked unchecked.
        md5: the same for files of which md5 is what is published.
        into: folder inside the extracted tree.
        inner: an archive inside this one that is unpacked as well.
        gone: the host no longer answers; only a copy put there by hand is used.
    """

    url: Annotated[str, AfterValidator(names_a_file)]
    sha256: Annotated[str, hexadecimal(64)] | None = None
    md5: Annotated[str, hexadecimal(32)] | None = None
    into: str = ""
    inner: str | None = None
    gone: bool = False

    @model_validator(mode="after")
    def one_digest(self) -> "Archive":
        """Refuse a file that could not be checked, or that has two truths."""
        if (self.sha256 is None) == (self.md5 is None):
            raise PydanticCustomError(
                "sentence",
                "give sha256 or md5 of the file, one of the two; `sha256sum FILE` prints the first",
            )
        return self

    @property
    def file(self) -> str:
        """File name in the download folder."""
        return Path(urlsplit(self.url).path).name

    @property
    def digest(self) -> tuple[str, str]:
        """Name of the algorithm and the file's digest."""
        return ("md5", self.md5) if self.md5 else ("sha256", self.sha256 or "")


def obtain(name: str, archives: Sequence[Archive], downloads: Path, fetching: Fetching | None) -> Path:
    """Return the extracted tree of a data set, fetching and unpacking only what is not there yet.

    Archives lie in `downloads/NAME/FILE`, the tree in `downloads/NAME/extracted`; the tree appears complete
    or not at all. It is made again where it was made from other archives: a record may have been changed.

    Raises:
        DataError: a file cannot be fetched, fails its checksum or cannot be unpacked; says what to do.
    """
    home = inside(downloads, name)
    tree = home / "extracted"
    made_from = json.dumps([archive.model_dump() for archive in archives])
    if (tree / MADE_FROM).is_file() and (tree / MADE_FROM).read_text() == made_from:
        return tree
    for archive in archives:
        if (home / archive.file).is_file():
            check(home / archive.file, archive)
        else:
            fetch(name, archive, archives, home, fetching)
    with replacing(tree) as fresh:
        for archive in archives:
            place(archive, home / archive.file, inside(fresh, archive.into) if archive.into else fresh)
        (fresh / MADE_FROM).write_text(made_from)
    return tree


def check(path: Path, archive: Archive) -> None:
    """Refuse an archive that is not the published one.

    Raises:
        DataError: its checksum differs.
    """
    if difference := mismatch(path, archive):
        raise DataError(f"{path}: {difference}; it is damaged or another version: delete it and run again")


def mismatch(path: Path, archive: Archive) -> str | None:
    """Compare a file with its published digest; say how they differ, or None."""
    kind, published = archive.digest
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    return None if found == published else f"{kind} is {found}, published is {published}"


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
            if difference := mismatch(fresh, archive):
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
    lines = [f"  {item.file}  from {item.url}  ({' '.join(item.digest)})" for item in missing]
    return "\n".join(
        [
            f"{name}: cannot fetch {archive.file} from {archive.url}: {reason}",
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
    if not archive.file.endswith((".tar", ".tgz", ".tar.gz", ".zip")):
        link_or_copy(path, folder / archive.file)
        return
    try:
        unpack(path, folder)
        if archive.inner is not None:
            unpack(inside(folder, archive.inner), folder)
    except BROKEN as fault:
        if isinstance(fault, OSError) and fault.errno in DISK_FULL:
            raise
        raise DataError(f"{path} cannot be unpacked ({fault}); delete it and run again") from None


def unpack(path: Path, folder: Path) -> None:
    """Unpack the files of one archive.

    Links are never made: a chain of them leads out of a folder past tarfile's own filter (CVE-2025-4517).

    Raises:
        UntrustedError: a member that lies outside the folder, is a link or a device; too much of them.
    """
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as zipped:
            entries = [entry for entry in zipped.infolist() if not entry.is_dir()]
            bounded(path, len(entries), sum(entry.file_size for entry in entries))
            for entry in entries:
                with zipped.open(entry) as stream:
                    write_member(folder, entry.filename, stream)
        return
    with tarfile.open(path, tarinfo=Member) as archive:
        members = archive.getmembers()
        bounded(path, len(members), sum(member.size for member in members))
        for member in members:
            if member.isfile():
                write_member(folder, member.name.removeprefix("./"), archive.extractfile(member))
            elif not member.isdir():
                raise UntrustedError(f"{path}: {member.name[:200]!r} is a link or a device; refused")


class Member(tarfile.TarInfo):
    """A header whose extension, which tarfile reads into memory whole, is a name and not gigabytes."""

    LONGEST = 1_000_000

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read 512 bytes of an archive."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in b"xgXLK" and member.size > cls.LONGEST:
            raise UntrustedError(f"an archive whose header holds a name of {member.size:,} bytes; refused")
        return member


def bounded(path: Path, members: int, size: int) -> None:
    """Refuse an archive of more members or bytes than any published set has, or than the disk takes."""
    free = shutil.disk_usage(path.parent).free
    most_bytes = min(MOST_BYTES, INFLATED * path.stat().st_size + ALWAYS)
    if members > MOST_MEMBERS or size > min(most_bytes, free):
        most = f"{MOST_MEMBERS:,} files of {most_bytes:,} bytes; {free:,} are free"
        raise UntrustedError(f"{path}: holds {members:,} files of {size:,} bytes, allowed {most}")


def write_member(folder: Path, name: str, stream: IO[bytes] | None) -> None:
    """Write one file of an archive below a folder."""
    target = inside(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(stream or io.BytesIO(), file, CHUNK)


def link_or_copy(path: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no hard links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
