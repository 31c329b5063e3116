"""Stream a feature bank to disk: no more than one batch of features is ever held in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from drtune.banks.bank import BankHeader, Layout, plan
from drtune.base.errors import BankError
from drtune.base.files import replacing


class BankWriter:
    """Takes batches of features in any order; made by `write_bank`."""

    def __init__(self, stream: BinaryIO, layout: Layout, ids: Sequence[str]) -> None:
        self.stream, self.layout, self.ids = stream, layout, ids
        self.written = torch.zeros(layout.shape[:2], dtype=torch.bool)

    def write(self, view: int, index: Tensor, features: Tensor) -> None:
        """Write rows `index` [B] of one view.

        Args:
            view: 0..V-1.
            index: [B] int64 rows, CPU.
            features: [B, D], CPU, any floating dtype.

        Raises:
            BankError: values that are not finite, or do not fit the bank's dtype, with the samples' names.
        """
        rows = features.detach().to(self.layout.dtype)
        self.refuse_non_finite(index, features, rows)
        for row, values in zip(index.tolist(), rows.contiguous().view(torch.uint8).numpy(), strict=True):
            self.stream.seek(self.layout.offset(view, row))
            self.stream.write(values.tobytes())
        self.written[view, index] = True

    def refuse_non_finite(self, index: Tensor, features: Tensor, rows: Tensor) -> None:
        """Raise `BankError` if any row is not finite."""
        wrong = index[~rows.isfinite().all(dim=1)].tolist()
        if not wrong:
            return
        names = ", ".join(repr(self.ids[row]) for row in wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        if features.isfinite().all():
            dtype, largest = self.layout.header.dtype, torch.finfo(self.layout.dtype).max
            raise BankError(
                f"{len(wrong)} of {len(index)} features exceed {largest:g}, the most that {dtype} holds: "
                f"{names}; set extract.dtype to bfloat16 or float32"
            )
        raise BankError(
            f"{len(wrong)} of {len(index)} features are not finite: {names}; check these images and the "
            "backbone's weights (backbone.weights)"
        )


@contextmanager
def write_bank(
    path: Path, header: BankHeader, labels: Tensor, ids: Sequence[str], dim: int
) -> Iterator[BankWriter]:
    """Write a bank aside; it takes its place at `path` when the block ends without a fault.

    Equal arguments and features give equal bytes.

    Args:
        path: of the safetensors file.
        header: where the features come from; `header.views` and `header.dtype` shape the file.
        labels: [N] classes.
        ids: N sample names, without line breaks.
        dim: D.

    Raises:
        BankError: nothing to write, names that cannot be kept, or rows left unwritten.
    """
    check(labels, ids)
    names = "\n".join(ids).encode("utf-8")
    layout = plan(header, len(ids), dim, len(names))
    with replacing(path) as fresh:
        with fresh.open("wb") as stream:
            stream.truncate(layout.size)
            stream.write(layout.head)
            stream.seek(layout.spans["labels"][0])
            stream.write(labels.to(torch.int64).numpy().tobytes())
            stream.seek(layout.spans["ids"][0])
            stream.write(names)
            writer = BankWriter(stream, layout, ids)
            yield writer
        missing = (~writer.written).nonzero().tolist()
        if missing:
            view, row = missing[0]
            raise BankError(
                f"{path.name}: {len(missing)} of {writer.written.numel()} rows were not written, the first "
                f"is view {view} of sample {ids[row]!r}"
            )


def check(labels: Tensor, ids: Sequence[str]) -> None:
    """Raise `BankError` unless there is one label and one line of text for each sample."""
    if not ids or len(ids) != len(labels):
        raise BankError(
            f"a feature bank needs one label per sample, got {len(labels)} for {len(ids)} samples"
        )
    broken = next((name for name in ids if "\n" in name), None)
    if broken is not None:
        raise BankError(
            f"sample name {broken!r} holds a line break, which a feature bank cannot keep; rename it"
        )
