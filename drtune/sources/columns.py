"""Read a table of labels as text, CSV of any delimiter or Parquet, and find its columns."""

import codecs
import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from drtune.base.errors import DataError
from drtune.base.faults import some
from drtune.base.files import inside
from drtune.sources.settings import Columns

USUAL = ("labels.csv", "labels.parquet")
DELIMITERS = ",;\t|"
ENDINGS = (".csv", ".tsv", ".txt", ".parquet")
LARGEST = 4 * 1024**3
"""Bytes of a table; a row of ImageNet-21k takes fewer than 100."""
NEEDED = ("image", "label")
PLAIN = Columns(**{role: role for role in Columns.model_fields})
"""The names that are meant where nobody says otherwise; such a column may be missing, another may not."""


class Naming(NamedTuple):
    """Which table of a folder holds the labels, and which column is what; see `data` in params.yaml.

    Attributes:
        labels: path of the table within the folder; None for labels.csv or labels.parquet, if there is one.
        columns: what its columns are called.
        group: a column, or a regular expression over file names.
    """

    labels: str | None = None
    columns: Columns = PLAIN
    group: str | None = None


class Table(NamedTuple):
    """A table of labels as text.

    Attributes:
        path: for messages.
        columns: name -> N values without spaces around them; '' where there is none.
        first: number of the first row as a spreadsheet counts it.
    """

    path: Path
    columns: dict[str, list[str]]
    first: int


def table_in(root: Path, naming: Naming) -> Path | None:
    """The table of labels of a folder, or None.

    Raises:
        DataError: the one that is named is not there, or there are two.
        UntrustedError: the name leads out of the folder.
    """
    if naming.labels is not None:
        path = inside(root, naming.labels)
        if not path.is_file():
            raise DataError(f"data.labels: {root} holds no table {naming.labels!r}; null takes labels.csv")
        return path
    found = [entry for entry in root.iterdir() if entry.name.casefold() in USUAL and entry.is_file()]
    if len(found) > 1:
        names = " and ".join(sorted(entry.name for entry in found))
        raise DataError(f"{root}: holds {names}; say which has the labels: data.labels: {found[0].name}")
    if not found and naming.columns != PLAIN:
        raise DataError(
            f"data.columns: {root} holds no labels.csv or labels.parquet; name one in data.labels"
        )
    return found[0] if found else None


def read_table(path: Path) -> Table:
    """Read every column of a table.

    Raises:
        DataError: no such format, a damaged file, text that is not UTF-8, two columns of one name.
    """
    if path.suffix.lower() not in ENDINGS:
        raise DataError(f"{path}: no table that is read; expected one of {', '.join(ENDINGS)}")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path}: larger than {LARGEST:,} bytes; a table of labels holds no images")
    parquet = path.suffix.lower() == ".parquet"
    try:
        names, columns = parquet_columns(path) if parquet else csv_columns(path)
    except (pa.ArrowException, csv.Error, UnicodeError, OSError) as fault:
        remedy = (
            "write it again" if parquet else "save it as CSV in UTF-8, values with the delimiter in quotes"
        )
        raise DataError(f"{path}: cannot be read as a table ({str(fault)[:300]}); {remedy}") from None
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(f"{path}: two columns are called {twice[0]!r}; rename one")
    return Table(path, dict(zip(names, columns, strict=True)), 1 if parquet else 2)


def csv_columns(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names and values of a CSV file; the values stay the text they are: 01, NA and null are names.

    Raises:
        csv.Error: rows of unequal length.
    """
    with path.open("rb") as stream:
        utf16 = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    with path.open(encoding="utf-16" if utf16 else "utf-8-sig", newline="") as text:
        delimiter = max(DELIMITERS, key=text.readline().count)
        text.seek(0)
        rows = list(csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True))
    header, *rows = [[value.strip() for value in row] for row in rows] or [[]]
    for number, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            raise csv.Error(f"row {number} has {len(row)} values, the header {len(header)}")
    return header, [[row[place] if row else "" for row in rows] for place in range(len(header))]


def parquet_columns(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names and values of a Parquet file; columns of lists, structures and bytes are passed over."""
    from pyarrow import parquet

    schema = parquet.read_schema(path)
    plain = [
        field.name
        for field in schema
        if not pa.types.is_nested(field.type) and "binary" not in str(field.type)
    ]
    table = parquet.read_table(path, columns=plain)
    columns = [[text_of(value) for value in column.to_pylist()] for column in table.columns]
    return [name.strip() for name in table.column_names], columns


def text_of(value: Any) -> str:
    """One value as text; a whole number without a point, which pandas writes where values are missing."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


class Selected(NamedTuple):
    """The columns that are used, N values each; None where the table has no such column.

    Attributes:
        image: what names the file.
        label: class name.
        split: what names the part.
        group: what the image may not be parted from.
        grouped: name of that column; '' where there is none.
    """

    image: list[str]
    label: list[str]
    split: list[str] | None
    group: list[str] | None
    grouped: str


def select(table: Table, naming: Naming) -> Selected:
    """Find the columns of a table.

    Raises:
        DataError: one that is needed, or that `data.columns` names, is not there; weights that are not 1.
    """
    names = {role: column(table, naming, role) for role in Columns.model_fields}
    if naming.group is not None:  # a column, or a regular expression, which the table knows nothing of
        names["group"] = known(table, naming.group)
    values = {role: table.columns[name] if name else None for role, name in names.items()}
    if names["image"] is None:
        values["image"] = from_pattern(table, naming.columns.image)
    if {*(values["weight"] or [])} - {"1", "1.0", ""}:
        raise DataError(
            f"{table.path}: column {names['weight']!r} gives images a weight, which no training here uses: "
            "every image counts alike. Leave it out: data.columns.weight: null"
        )
    return Selected(
        values["image"] or [], values["label"] or [], values["split"], values["group"], names["group"] or ""
    )


def column(table: Table, naming: Naming, role: str) -> str | None:
    """The name of the column of a role; None where the table has none, or is not to use it.

    Raises:
        DataError: it is needed, or named in `data.columns`, and not there.
    """
    name = getattr(naming.columns, role)
    if name is None or (role == "image" and "{" in name):
        return None
    found = known(table, name)
    if found is None and (name != role or role in NEEDED):
        first, second = [*table.columns, "…", "…"][:2]
        raise DataError(
            f"data.columns.{role}: {table.path} has no column {name!r} of plain values; it has "
            f"{some(table.columns, 12)}. Say which is which: data.columns.image: {first}, "
            f"data.columns.label: {second}"
        )
    return found


def known(table: Table, name: str) -> str | None:
    """The column of this name, else the only one that differs by case alone, else None."""
    alike = [other for other in table.columns if other.casefold() == name.strip().casefold()]
    return name if name in table.columns else alike[0] if len(alike) == 1 else None


def from_pattern(table: Table, pattern: str) -> list[str]:
    """Values that a pattern makes of columns, one a row: `train/{id}.jpg`.

    Raises:
        DataError: it names a column that is not there.
    """
    parts: Sequence[str] = re.split(r"\{([^{}]*)\}", pattern)
    names = [known(table, name) for name in parts[1::2]]
    if None in names:
        wrong = parts[1::2][names.index(None)]
        raise DataError(
            f"data.columns.image: {pattern!r}: {table.path} has no column {wrong!r}; it has "
            f"{some(table.columns, 12)}"
        )
    made = [parts[0]] * len(next(iter(table.columns.values())))
    for name, after in zip(names, parts[2::2], strict=True):
        made = [text + value + after for text, value in zip(made, table.columns[name or ""], strict=True)]
    return made
