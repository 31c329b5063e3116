"""Rows whose bytes are read when they are needed."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drtune.sources.samples import array_samples, file_sample, is_text, png_bytes, printable, read_file


def test_file_sample_keeps_the_bytes(tmp_path):
    path = tmp_path / "a" / "b.jpg"
    path.parent.mkdir()
    path.write_bytes(b"\xff\xd8 not really")
    sample = file_sample(path, tmp_path, 4)
    assert sample[:2] == ("a/b.jpg", 4)
    assert sample.load() == b"\xff\xd8 not really"


def test_array_samples_lose_nothing():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    samples = array_samples("set/train", images, [2, 0, 1])
    assert [sample.id for sample in samples] == ["set/train/00000", "set/train/00001", "set/train/00002"]
    assert [sample.label for sample in samples] == [2, 0, 1]
    assert (np.asarray(Image.open(io.BytesIO(samples[1].load()))) == images[1]).all()
    assert Image.open(io.BytesIO(png_bytes(images[0, ..., 0]))).mode == "L"


def test_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_file(tmp_path / "pipe")


def test_a_device_is_not_opened(monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("opened"))
    monkeypatch.setattr("io.open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(OSError, match="not a regular file"):
        read_file(Path("/dev/zero"))


def test_a_file_larger_than_any_picture_is_not_read(tmp_path):
    with (tmp_path / "film.jpg").open("wb") as stream:
        stream.truncate(5_000_000_000)  # sparse: it takes no room
    with pytest.raises(OSError, match="5.0 GB, and a picture may have 1"):
        read_file(tmp_path / "film.jpg")


def test_printable():
    assert printable("é b") == "é b"
    assert printable("a\udcff") == "a?"
    assert printable("a\nb\t") == "a\\nb\\t"
    assert is_text("é\n")
    assert not is_text("a\udcff")
