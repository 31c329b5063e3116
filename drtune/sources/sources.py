"""From `data.name` to rows: the embedded digits, a folder, or an entry of the catalogue."""

from pathlib import Path

from drtune.base.errors import DataError
from drtune.base.faults import unknown_value
from drtune.sources.archives import Fetching, obtain
from drtune.sources.catalog import CATALOG
from drtune.sources.digits import digits_source
from drtune.sources.folder import folder_source
from drtune.sources.samples import Source
from drtune.sources.settings import DataSettings

NAMES = ["digits", "folder", *CATALOG]
"""What `data.name` may be."""


def read_source(settings: DataSettings, downloads: Path, fetching: Fetching | None = None) -> Source:
    """List the images of a data set without decoding them.

    Raises:
        DataError: an unknown name, a folder that cannot be understood, an archive that cannot be had.
    """
    if settings.name not in NAMES:
        raise DataError(f"data.name: {unknown_value(settings.name, NAMES)}")
    if settings.name == "digits":
        return digits_source()
    if settings.name == "folder":
        return folder_source(settings.path)
    return published_source(settings.name, downloads, fetching)


def published_source(name: str, downloads: Path, fetching: Fetching | None) -> Source:
    """Fetch what is missing of a catalogue entry and read it.

    Raises:
        DataError: an archive cannot be had (says what to put where), or the extracted tree is not whole.
    """
    record = CATALOG[name]
    tree = obtain(name, record.archives, downloads, fetching)
    try:
        classes, parts = record.read(tree)
    except (RuntimeError, OSError, ValueError, LookupError) as fault:
        raise DataError(
            f"data.name {name}: {tree} is not whole ({fault}); delete that folder and run again"
        ) from None
    if len(classes) != record.classes:
        raise DataError(
            f"data.name {name}: {tree} holds {len(classes)} classes, expected {record.classes}; "
            "delete that folder and run again"
        )
    return Source(record.title, tuple(classes), parts, record.homepage, record.licence, record.split)
