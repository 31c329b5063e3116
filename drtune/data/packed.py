"""A split as one memory-mapped Arrow file: `id` string, `image` binary (encoded), `label` int32.

One file instead of thousands: it is hashed, pushed and pulled fast, and loader workers share its pages.
Above 2 GiB it goes on in NAME-001.arrow, NAME-002.arrow, ...
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from drtune.base.errors import DataError
from drtune.data.card import read_card
from drtune.data.images import decode_rgb
from drtune.data.settings import STANDARD, Reading

if TYPE_CHECKING:
    from torch import Tensor

Row = tuple[str, bytes, int]
"""(id, encoded image, label)"""

SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.int32())])
SHARD_BYTES = 2 * 1024**3
BATCH_BYTES = 8 * 1024**2
BATCH_ROWS = 1024


class Split(StrEnum):
    """The parts of a data set; test is opened by the evaluation alone."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


def write_split(path: Path, rows: Iterable[Row], *, shard_bytes: int = SHARD_BYTES) -> int:
    """Stream rows into `path` and its further shards; equal rows give equal bytes.

    All shards are written aside and renamed at the end; shards of an earlier, longer split are removed.

    Args:
        path: NAME.arrow.
        rows: read once, in order; never held in memory together.
        shard_bytes: a new file is begun before the encoded images in one exceed this.

    Returns:
        The number of rows written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as aside:
        count, shard = 0, 0
        for shard, part in enumerate(in_shards(rows, shard_bytes)):
            count += write_shard(shard_path(Path(aside) / path.name, shard), part)
        if count == 0:
            write_shard(Path(aside) / path.name, [])
        for stale in shards_of(path)[shard + 1 :]:
            stale.unlink()
        for number in range(shard + 1):
            os.replace(shard_path(Path(aside) / path.name, number), shard_path(path, number))
    return count


def in_shards(rows: Iterable[Row], limit: int) -> Iterator[Iterator[Row]]:
    """Cut a stream of rows into streams of at most `limit` image bytes (at least one row each).

    Each inner stream must be used up before the next is asked for.
    """
    stream = iter(rows)
    first = next(stream, None)

    def shard() -> Iterator[Row]:
        nonlocal first
        size = 0
        while first is not None and (size == 0 or size + len(first[1]) <= limit):
            size += len(first[1])
            yield first
            first = next(stream, None)

    while first is not None:
        yield shard()


def write_shard(path: Path, rows: Iterable[Row]) -> int:
    """Write one Arrow file in record batches; return the number of rows."""
    total = 0
    with path.open("wb") as stream, pa.ipc.new_file(stream, SCHEMA) as writer:
        batch: list[Row] = []
        size = 0
        for row in rows:
            batch.append(row)
            size += len(row[1])
            total += 1
            if size >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
                writer.write_batch(record_batch(batch))
                batch, size = [], 0
        if batch:
            writer.write_batch(record_batch(batch))
    return total


def record_batch(rows: list[Row]) -> pa.RecordBatch:
    """Turn rows into columns."""
    columns = [
        pa.array(column, type=field.type)
        for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def shard_path(path: Path, number: int) -> Path:
    """NAME.arrow, NAME-001.arrow, NAME-002.arrow, ..."""
    return path if number == 0 else path.with_name(f"{path.stem}-{number:03d}{path.suffix}")


def shards_of(path: Path) -> list[Path]:
    """The files of a split that exist, in order."""
    shards: list[Path] = []
    while (shard := shard_path(path, len(shards))).is_file():
        shards.append(shard)
    return shards


class PackedSplit:
    """Read one split by memory map; a pickled copy maps the files again where it is loaded.

    Args:
        path: NAME.arrow; its further shards are found beside it.
        reading: what the pixels of its files mean.

    Raises:
        DataError: no such file, or not a packed split.
    """

    def __init__(self, path: Path, reading: Reading = STANDARD) -> None:
        self.path, self.reading = path, reading
        shards = shards_of(path)
        if not shards:
            raise DataError(f"{path}: no such split; run `dvc repro download`")
        self._table = pa.concat_tables([mapped(shard) for shard in shards])
        self._images = self._table.column("image")

    def __reduce__(self) -> tuple[type["PackedSplit"], tuple[Path, Reading]]:
        return PackedSplit, (self.path, self.reading)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @cached_property
    def ids(self) -> list[str]:
        """N ids, in row order."""
        ids: list[str] = self._table.column("id").to_pylist()
        return ids

    @cached_property
    def labels(self) -> "Tensor":
        """[N] int64 class indices."""
        import torch  # who writes a split does without

        return torch.from_numpy(self._table.column("label").to_numpy().astype(np.int64))

    def encoded(self, row: int) -> bytes:
        """The image file of one row, byte for byte as it was ingested."""
        encoded: bytes = self._images[row].as_py()
        return encoded

    def image(self, row: int) -> Image.Image:
        """The image of one row as upright 8-bit RGB (see `images.to_rgb`)."""
        return decode_rgb(self.encoded(row), self.reading)


def mapped(path: Path) -> pa.Table:
    """Map one Arrow file without reading its images.

    Raises:
        DataError: not an Arrow file of our columns.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)  # offsets that lead out of the file would end the process; no image is read
    except (pa.ArrowException, UnicodeError, OSError) as fault:
        raise DataError(f"{path} is damaged ({fault}); run `dvc repro download` again") from None
    if table.schema != SCHEMA:
        raise DataError(
            f"{path} is not a packed split: its columns are {table.schema.names}, not id, image, label"
        )
    if any(column.null_count for column in table.columns):
        raise DataError(f"{path} is damaged (rows without a value); run `dvc repro download` again")
    return table


def open_split(folder: Path, split: Split | str) -> PackedSplit:
    """Open one split of a packed data set: `train`, `val`, `test` or `ood/NAME`.

    Raises:
        DataError: not a packed data set, an unknown split, or a file that does not fit the card.
    """
    card = read_card(folder)
    if split not in card.counts:
        raise DataError(f"{folder} has no split {str(split)!r}; it has: {', '.join(card.counts)}")
    packed = PackedSplit(folder / f"{split}.arrow", card.reading)
    if len(packed) != card.counts[split]:
        raise DataError(
            f"{packed.path} holds {len(packed)} images where the card says {card.counts[split]}; "
            "run `dvc repro download` again"
        )
    return packed
