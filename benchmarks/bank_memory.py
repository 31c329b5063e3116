"""Resident memory while DR-Tune reads a feature bank that is far larger than it should cost.

    python -m benchmarks.bank_memory         (ImageNet's size: 1.28 million rows of 2048, 5.2 GB on disk)

Writes a bank of random half-precision rows, opens it as training does and fetches the rows of one epoch in
random order, B at a time. Another process writes, so that no memory it gave back hides any growth here. With
`--cold` the file is first dropped from the system's page cache, which then fills again as rows are read.
"""

import argparse
import gc
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import psutil
import torch

from drtune.banks.bank import BankHeader, open_bank
from drtune.banks.writer import write_bank
from drtune.base.seeding import generator

CHUNK = 4096
"""Rows written at a time; the same ones every time, since their values do not matter here."""


def write(path: Path, rows: int, dim: int) -> None:
    """Write a bank of one view."""
    header = BankHeader("", "", "", "", views=1, augmented=False, augment_seed=0, dtype="float16")
    labels, ids = torch.arange(rows) % 1000, [f"{row:07d}" for row in range(rows)]
    features = torch.rand(CHUNK, dim, generator=generator(0)).half()
    with write_bank(path, header, labels, ids, dim) as writer:
        for index in torch.arange(rows).split(CHUNK):  # type: ignore[no-untyped-call]
            writer.write(0, index, features[: len(index)])


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def megabytes() -> tuple[float, float]:
    """Resident memory of this process, and the part of it that is pages of files."""
    info = psutil.Process().memory_info()
    return info.rss / 1e6, info.shared / 1e6


def replay(path: Path, batch_size: int, batches: int | None) -> str:
    """Open the bank and read one epoch; returns what it took."""
    random = generator(1)
    torch.rand(1).half().float()  # what torch loads on first use is no part of the bank
    gc.collect()
    before = megabytes()
    bank = open_bank(path)
    opened = megabytes()
    peak, took, done = opened, 0.0, 0
    order = torch.randperm(bank.num_rows, generator=random)
    order_mb = order.nbytes / 1e6
    for index in order.split(batch_size)[:batches]:  # type: ignore[no-untyped-call]
        start = time.perf_counter()
        bank.rows(torch.zeros_like(index), index)
        took, done, peak = took + time.perf_counter() - start, done + 1, max(peak, megabytes())
    return (
        f"{bank.num_rows} rows of {bank.dim}, {path.stat().st_size / 1e9:.2f} GB on disk; {done} batches of "
        f"{batch_size}\nresident memory: {before[0]:.0f} MB before, +{opened[0] - before[0]:.1f} MB opened "
        f"(labels {bank.labels.nbytes / 1e6:.1f}), at most +{peak[0] - before[0]:.1f} MB while reading "
        f"(of it pages of files +{peak[1] - before[1]:.1f}; the epoch's order {order_mb:.1f})\n"
        f"{1000 * took / done:.2f} ms a batch"
    )


def main() -> None:
    """Write, read, report, remove."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_280_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, help="default: a whole epoch")
    parser.add_argument("--folder", type=Path, help="where there is room for the bank; default: as tempfile")
    parser.add_argument("--cold", action="store_true", help="empty the page cache of the file first")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "bank.safetensors"
        context = multiprocessing.get_context("spawn")
        writer = context.Process(target=write, args=(path, given.rows, given.dim))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise SystemExit(f"the bank could not be written (exit code {writer.exitcode})")
        if given.cold:
            forget(path)
        print(replay(path, given.batch_size, given.batches))


if __name__ == "__main__":
    main()
