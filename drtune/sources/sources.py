"""From `data.source` to rows: a record of catalog/, or a user's folder."""

from pathlib import Path

from drtune.base.errors import DataError, DRTuneError
from drtune.base.yaml import ENDINGS
from drtune.sources.archives import Fetching, obtain
from drtune.sources.columns import PLAIN, Naming, table_in
from drtune.sources.folder import existing_folder, folder_source
from drtune.sources.published import LAYOUTS
from drtune.sources.record import read_record
from drtune.sources.samples import Source
from drtune.sources.table import table_source


def read_source(
    source: str, downloads: Path, fetching: Fetching | None = None, naming: Naming | None = None
) -> Source:
    """List the images of a data set without decoding them.

    Args:
        source: path of a record, or of a folder.
        downloads: where archives are kept, one folder a record.
        fetching: called while an archive is downloaded.
        naming: which table of a folder holds the labels.

    Raises:
        ConfigError: a record with faults.
        DataError: a folder or its table that cannot be understood, an archive that cannot be had.
    """
    path, naming = Path(source).expanduser(), naming or Naming()
    if path.suffix in ENDINGS and not path.is_dir():
        if naming.labels or naming.columns != PLAIN:
            raise DataError(
                f"data.labels and data.columns: {path} is a record, which has labels; leave both as shipped"
            )
        return published_source(path, downloads, fetching)
    root = existing_folder(source)
    table = table_in(root, naming)
    return table_source(root, table, naming) if table else folder_source(source)


def published_source(path: Path, downloads: Path, fetching: Fetching | None) -> Source:
    """Fetch what is missing of a record's files and read them.

    Raises:
        ConfigError: a record with faults.
        DataError: an archive cannot be had (says what to put where), or the extracted tree is not whole.
    """
    record = read_record(path)
    tree = obtain(path.stem, record.files, downloads, fetching) if record.files else downloads
    try:
        found, parts = LAYOUTS[record.layout](tree)
        classes = record.named(found)
    except DRTuneError:
        raise
    except Exception as fault:  # files that do not lie as the layout says can raise anything
        raise DataError(
            f"{path}: {tree} is not whole, or not of the layout {record.layout} "
            f"({fault or type(fault).__name__}); correct the record, or delete that folder and run again"
        ) from None
    return Source(path.stem, record.title, classes, parts, record.homepage, record.licence, record.split)
