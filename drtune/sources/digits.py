"""The handwritten digits that scikit-learn ships: 1,797 real scans of 8 x 8 pixels that need no download."""

from functools import partial
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from drtune.data.packed import Split
from drtune.sources.samples import Listing, Sample, png_bytes


def digits(_tree: Path) -> Listing:
    """Read the digits as greyscale PNG, dark ink on white paper: pixel = 255 - value * 255 / 16.

    The file is read where it lies, because importing scikit-learn takes seconds. A row holds 64 values 0..16,
    then the digit.
    """
    table = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(table), delimiter=",")
    pixels = np.rint(255 - rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    samples = [
        Sample(f"digits/{row:04d}", int(label), partial(png_bytes, image))
        for row, (image, label) in enumerate(zip(pixels, rows[:, 64], strict=True))
    ]
    return [str(digit) for digit in range(10)], {Split.TRAIN: samples}
