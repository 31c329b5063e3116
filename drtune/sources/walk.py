"""Walk the folders of a user: what is meant, what is passed over, in which order."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from PIL import Image

from drtune.base.errors import DataError
from drtune.data.images import known_formats

JUNK = {
    "__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "@eaDir", "@Recycle", "@__thumb", "#recycle",
    "#snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".DS_Store", ".git", ".dvc",
    ".ipynb_checkpoints",
}  # fmt: skip
"""What operating systems, NAS boxes and tools leave behind in folders."""


def visible(folder: Path, passed: list[Path] | None = None) -> list[Path]:
    """Entries of a folder that are meant, sorted by name.

    Args:
        folder: to be listed.
        passed: takes the entries that are passed over for a dot before their name; junk is not worth a word.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as fault:
        raise DataError(f"{folder} cannot be listed: {fault.strerror}") from None
    entries = [entry for entry in entries if entry.name not in JUNK and not entry.name.startswith("._")]
    if passed is not None:
        passed += [entry for entry in entries if entry.name.startswith(".")]
    return [entry for entry in entries if not entry.name.startswith(".")]


def folders_in(folder: Path) -> list[Path]:
    """Visible folders directly in a folder, sorted by name."""
    return [entry for entry in visible(folder) if entry.is_dir()]


def pictures_in(folder: Path) -> list[Path]:
    """Visible files directly in a folder whose ending is that of an image, sorted by name."""
    return [entry for entry in visible(folder) if is_picture(entry.name) and not entry.is_dir()]


def files_below(folder: Path, above: frozenset[Path], passed: list[Path] | None = None) -> Iterator[Path]:
    """Visible files at any depth; links are followed.

    Args:
        folder: where to begin.
        above: resolved folders that are not entered: a link that leads back there has no end.
        passed: takes what is passed over.
    """
    here = folder.resolve()
    if here in above:
        if passed is not None:
            passed.append(folder)
        return
    for entry in visible(folder, passed):
        if entry.is_dir():
            yield from files_below(entry, above | {here}, passed)
        else:
            yield entry


def at_and_above(folder: Path) -> frozenset[Path]:
    """A folder and all folders that hold it, resolved."""
    here = folder.resolve()
    return frozenset({here, *here.parents})


def is_picture(name: str) -> bool:
    """Whether a file's name ends as that of an image that can be read, in any case."""
    return Path(name).suffix.lower() in picture_endings()


@cache
def picture_endings() -> frozenset[str]:
    """`.jpg`, `.png` and whatever else belongs to a format that is read."""
    known = set(known_formats())
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in known)


def natural(names: Iterable[str]) -> list[str]:
    """Sort names with numbers in them by their value: class2 before class10."""
    return sorted(names, key=lambda name: (natural_key(name), name))


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Cut a name into numbers and words; a number comes before a word."""
    runs = re.findall(r"\d+|\D+", name)
    return [(False, int(run), "") if run.isdecimal() else (True, 0, run) for run in runs]
