"""The embedded digits are the real scans, dark on white."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from drtune.data.packed import Split
from drtune.sources.digits import digits


def test_pixels_ids_and_labels():
    classes, parts = digits(Path())
    assert list(parts) == [Split.TRAIN]
    samples = parts[Split.TRAIN]
    assert (len(samples), samples[0].id, samples[-1].id) == (1797, "digits/0000", "digits/1796")
    scans = load_digits()
    assert classes == [str(name) for name in scans.target_names]
    assert [sample.label for sample in samples] == scans.target.tolist()
    image = Image.open(io.BytesIO(samples[3].load()))
    assert (image.mode, image.size) == ("L", (8, 8))
    assert np.abs(np.asarray(image) - (255 - scans.images[3] * 255 / 16)).max() <= 0.5
    assert np.asarray(image).max() == 255  # paper is white
