"""The feature bank: what the frozen backbone says of every training image, as one safetensors file.

`features` [V, N, D] (V views of N images), `labels` [N] int64 and `ids` (UTF-8, one a line, as uint8); a
header says from which weights, data and transform. Rows are fetched by offset, not through a memory map whose
pages count as resident memory: a bank far larger than the memory costs no more than one batch.
"""

import json
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drtune.base.errors import BankError

FORMAT = "drtune.bank.1"
IN_MEMORY_BYTES = 256 * 1024**2
"""Features up to this size are read at once and kept."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
REMEDY = "run `dvc repro extract` to make it again"


@dataclass(frozen=True)
class BankHeader:
    """Where a bank comes from.

    Attributes:
        backbone: timm name and arguments, JSON.
        weights_sha256: of the encoder's weights.
        data_sha256: of the training split.
        transform: everything that decides the tensors the encoder saw, JSON.
        views: V.
        augmented: whether the views are augmented (else V is 1).
        augment_seed: seed of the views' augmentations.
        dtype: of the features, `float16`, `bfloat16` or `float32`.
        weights: what was taken of a checkpoint of another code, what was left out and which input is assumed;
            empty, and not in the file, for all other weights.
    """

    backbone: str
    weights_sha256: str
    data_sha256: str
    transform: str
    views: int
    augmented: bool
    augment_seed: int
    dtype: str
    weights: str = ""


class FeatureBank:
    """Rows of features by view and index.

    Args:
        header: where they come from.
        labels: [N] int64.
        features: [V, N, D] in memory, or a file to fetch from.
        ids: N sample names, or the function that reads them.
    """

    def __init__(
        self, header: BankHeader, labels: Tensor, features: "Tensor | RowFile", ids: Sequence[str] | None
    ) -> None:
        self.header = header
        self.labels = labels
        self._features = features
        self._ids = ids

    @classmethod
    def from_tensors(
        cls, features: Tensor, labels: Tensor, ids: Sequence[str], header: BankHeader
    ) -> "FeatureBank":
        """Build a bank in memory from features [V, N, D] and labels [N]."""
        return cls(header, labels, features, list(ids))

    @property
    def views(self) -> int:
        """V."""
        return int(self._features.shape[0])

    @property
    def num_rows(self) -> int:
        """N."""
        return int(self._features.shape[1])

    @property
    def dim(self) -> int:
        """D."""
        return int(self._features.shape[2])

    @property
    def ids(self) -> list[str]:
        """N sample names, read from the file each time."""
        if self._ids is not None:
            return list(self._ids)
        assert isinstance(self._features, RowFile)
        return self._features.read_ids()

    def rows(self, view: Tensor, index: Tensor) -> Tensor:
        """Fetch rows (view[i], index[i]).

        Args:
            view: [B] int64 in 0..V-1, CPU.
            index: [B] int64 in 0..N-1, CPU.

        Returns:
            [B, D] float32, CPU.

        Raises:
            BankError: a view or row that the bank does not have, or a file cut short meanwhile.
        """
        for name, wanted, size in (("view", view, self.views), ("row", index, self.num_rows)):
            wrong = wanted[(wanted < 0) | (wanted >= size)]
            if len(wrong):
                raise BankError(f"the bank has {name}s 0 to {size - 1}, but {int(wrong[0])} was asked for")
        if isinstance(self._features, RowFile):
            return self._features.gather(view, index).float()
        return self._features[view, index].float()

    def require(self, expected: BankHeader) -> None:
        """Make sure that this bank is what an extraction now would give.

        Raises:
            BankError: naming every difference, both values and the remedy.
        """
        differences = [
            f"  {field.name}: the bank has {getattr(self.header, field.name)!r}, "
            f"expected {getattr(expected, field.name)!r}"
            for field in fields(BankHeader)
            if getattr(self.header, field.name) != getattr(expected, field.name)
        ]
        if differences:
            listing = "\n".join(differences)
            raise BankError(f"the feature bank does not belong to these settings; {REMEDY}\n{listing}")


class RowFile:
    """Features and ids inside an open bank file, fetched by offset."""

    def __init__(self, path: Path, layout: "Layout") -> None:
        self.path, self.layout = path, layout
        self.shape = layout.shape
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes at `offset`."""
        done = 0
        while done < len(target):
            got = os.preadv(self.descriptor, [target[done:]], offset + done)
            if got == 0:
                raise BankError(f"{self.path} ends early; {REMEDY}")
            done += got

    def read(self, name: str) -> bytearray:
        """All bytes of one tensor."""
        start, end = self.layout.spans[name]
        data = bytearray(end - start)
        self.read_into(memoryview(data), start)
        return data

    def read_ids(self) -> list[str]:
        """The sample names."""
        return self.read("ids").decode("utf-8").split("\n")

    def gather(self, view: Tensor, index: Tensor) -> Tensor:
        """[B, D] rows in the dtype of the file."""
        step = self.layout.row_bytes
        rows = torch.empty(len(index), self.shape[2], dtype=self.layout.dtype)
        target = memoryview(rows.view(torch.uint8).flatten().numpy())  # type: ignore[arg-type]
        for i, place in enumerate(zip(view.tolist(), index.tolist(), strict=True)):
            self.read_into(target[i * step : (i + 1) * step], self.layout.offset(*place))
        return rows


@dataclass(frozen=True)
class Layout:
    """Where things lie in a bank file: a safetensors file with its tensors in the order of `spans`.

    Attributes:
        header: of the bank.
        shape: (V, N, D).
        head: the first bytes: the length of the JSON (8 bytes, little endian) and the JSON itself.
        spans: tensor name -> (first byte, byte after the last) in the file.
    """

    header: BankHeader
    shape: tuple[int, int, int]
    head: bytes
    spans: Mapping[str, tuple[int, int]]

    @property
    def dtype(self) -> torch.dtype:
        """Of the features."""
        return DTYPES[self.header.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of features."""
        return self.shape[2] * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return max(end for _, end in self.spans.values())

    def offset(self, view: int, row: int) -> int:
        """First byte of a row of features."""
        return self.spans["features"][0] + (view * self.shape[1] + row) * self.row_bytes


def plan(header: BankHeader, rows: int, dim: int, ids_bytes: int) -> Layout:
    """Lay out a bank of N rows of D features whose ids take `ids_bytes`; equal arguments give equal bytes."""
    shape = (header.views, rows, dim)
    tensors = {
        "labels": ("I64", [rows], 8 * rows),
        "features": (
            NAMES[header.dtype],
            list(shape),
            header.views * rows * dim * DTYPES[header.dtype].itemsize,
        ),
        "ids": ("U8", [ids_bytes], ids_bytes),
    }
    said = {key: value for key, value in asdict(header).items() if key != "weights" or value}
    metadata = {"format": FORMAT, "header": json.dumps(said, sort_keys=True)}
    record: dict[str, Any] = {"__metadata__": metadata}
    offsets, end = {}, 0
    for name, (dtype, extent, size) in tensors.items():
        offsets[name] = (end, end + size)
        record[name] = {"dtype": dtype, "shape": extent, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(record).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    spans = {name: (len(head) + start, len(head) + stop) for name, (start, stop) in offsets.items()}
    return Layout(header, shape, head, spans)


def open_bank(path: Path) -> FeatureBank:
    """Open a bank file; features are fetched row by row unless they are small.

    Raises:
        BankError: no such file, cut short, or not a feature bank.
    """
    layout = read_layout(path)
    file = RowFile(path, layout)
    labels = torch.frombuffer(file.read("labels"), dtype=torch.int64)
    start, end = layout.spans["features"]
    if end - start > IN_MEMORY_BYTES:
        return FeatureBank(layout.header, labels, file, None)
    features = torch.frombuffer(file.read("features"), dtype=layout.dtype).view(layout.shape)
    return FeatureBank(layout.header, labels, features, file.read_ids())


def read_layout(path: Path) -> Layout:
    """Read the head of a bank file and make sure that it is exactly one that `plan` gives.

    Raises:
        BankError: as `open_bank` says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            head = length.to_bytes(8, "little") + stream.read(min(length, size))
    except OSError as fault:
        raise BankError(
            f"{path}: no feature bank to read ({fault.strerror}); run `dvc repro extract`"
        ) from None
    try:
        record = json.loads(head[8:])
        header = BankHeader(**json.loads(record["__metadata__"]["header"]))
        layout = plan(header, *record["features"]["shape"][1:], *record["ids"]["shape"])
    except (ValueError, KeyError, TypeError, AttributeError):
        layout = None
    if layout is None or layout.head != head:
        raise BankError(f"{path} is no feature bank (safetensors, format {FORMAT}) or is cut short; {REMEDY}")
    if layout.size != size:
        raise BankError(f"{path} has {size} bytes where its header says {layout.size}; {REMEDY}")
    return layout
