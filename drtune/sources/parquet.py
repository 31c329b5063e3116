"""Parquet shards as the Hugging Face hub has them: encoded images in one column, labels in another."""

import json
import threading
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drtune.sources.shards import Columns, Row

MOST_BYTES = 4_000_000_000
"""Of the images in one row group, unpacked; publishers write some hundred rows, or 0.5 GB, to a group."""
READING = threading.Lock()


def parquet(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    """List the rows of one file; a row's id is `NAME/NUMBER`.

    Raises:
        ValueError: no such column, or one that holds something else.
    """
    image, label = columns.image or "image", columns.label or "label"
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        if missing := [column for column in (image, label) if column not in schema.names]:
            raise ValueError(f"{name}: has no column {missing[0]!r}; it has: {', '.join(schema.names)}")
        if not holds_images(schema.field(image).type):
            raise ValueError(f"{name}: column {image!r} holds {schema.field(image).type}, not encoded images")
        if not holds_labels(schema.field(label).type):
            raise ValueError(
                f"{name}: column {label!r} holds {schema.field(label).type}, not numbers or names"
            )
        labels = file.read(columns=[label]).column(label).to_pylist()
        names = names_of(schema, label)
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    places = ((group, row) for group, size in enumerate(sizes) for row in range(size))
    for number, ((group, row), value) in enumerate(zip(places, labels, strict=True)):
        if value is None:
            raise ValueError(f"{name}: row {number} has no label")
        if isinstance(value, int) and names and value >= len(names):
            raise ValueError(f"{name}: row {number} has the label {value}, but there are {len(names)} names")
        if isinstance(value, int) and names and value >= 0:
            value = names[value]
        yield Row(f"{name}/{number:07d}", value, partial(encoded, path, image, group, row))


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column is of bytes, or of the hub's `{bytes, path}`."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def holds_labels(kind: pa.DataType) -> bool:
    """Whether a column is of whole numbers or of text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def names_of(schema: pa.Schema, label: str) -> list[str]:
    """Class names that the hub's library left in the file; empty where labels have none."""
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (TypeError, KeyError, ValueError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def encoded(path: Path, column: str, group: int, row: int) -> bytes:
    """The encoded image of one row.

    Raises:
        OSError: the file cannot be read any more, or has no image there.
    """
    with READING:
        try:
            value = row_group(path, column, group)[row].as_py()
        except pa.ArrowException as fault:
            raise OSError(f"{path.name} is damaged ({fault})") from None
    value = value.get("bytes") if isinstance(value, dict) else value
    if not value:
        raise OSError("the row has no image, at most the name of one")
    return bytes(value)


@lru_cache(maxsize=2)
def row_group(path: Path, column: str, group: int) -> Any:
    """The images of one row group; rows are asked for in order, so that few are read twice."""
    with pq.ParquetFile(path) as file:
        size = file.metadata.row_group(group).total_byte_size
        if size > MOST_BYTES:
            raise OSError(f"a row group of {path.name} holds {size:,} bytes, allowed {MOST_BYTES:,}")
        return file.read_row_group(group, columns=[column]).column(column)
