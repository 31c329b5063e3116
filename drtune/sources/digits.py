"""scikit-learn's handwritten digits: 1,797 real scans of 8 x 8 pixels that need no download."""

from functools import partial

import numpy as np
from sklearn.datasets import load_digits

from drtune.data.packed import Split
from drtune.sources.samples import Sample, Source, png_bytes


def digits_source() -> Source:
    """Read the digits as greyscale PNG, dark ink on white paper: pixel = 255 - value * 255 / 16."""
    scans = load_digits()
    pixels = np.rint(255 - scans.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8], values 0..16 there
    samples = [
        Sample(f"digits/{row:04d}", int(label), partial(png_bytes, image))
        for row, (image, label) in enumerate(zip(pixels, scans.target, strict=True))
    ]
    return Source(
        title="Optical recognition of handwritten digits (scikit-learn)",
        classes=tuple(str(name) for name in scans.target_names),
        parts={Split.TRAIN: samples},
        origin="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        licence="CC BY 4.0",
        split="scikit-learn's copy has no split",
    )
