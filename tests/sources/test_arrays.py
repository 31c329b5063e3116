"""A small copy of every layout whose images are arrays."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from drtune.data.packed import Split
from drtune.sources.arrays import ArrayUnpickler, cifar10, cifar100, stl10, svhn

TRAIN, TEST = Split.TRAIN, Split.TEST


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def pixels(row) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row.load())))


def cifar_batch(path: Path, data: np.ndarray, labels: list[int], key: str) -> None:
    flat = data.transpose(0, 3, 1, 2).reshape(len(data), -1)
    put(path, pickle.dumps({"data": flat, key: labels}))


def test_cifar10(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    base = tmp_path / "cifar-10-batches-py"
    names = [f"class{number}" for number in range(10)]
    put(base / "batches.meta", pickle.dumps({"label_names": names}))
    for number in range(1, 6):
        cifar_batch(base / f"data_batch_{number}", data[number : number + 1], [number], "labels")
    cifar_batch(base / "test_batch", data[:1], [9], "labels")
    classes, parts = cifar10(tmp_path)
    assert classes == names
    assert [(row.id, row.label) for row in parts[TRAIN]] == [
        (f"cifar10/train/0000{i}", i + 1) for i in range(5)
    ]
    assert [(row.id, row.label) for row in parts[TEST]] == [("cifar10/test/00000", 9)]
    assert (pixels(parts[TRAIN][2]) == data[3]).all()


def test_cifar100(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    base = tmp_path / "cifar-100-python"
    put(base / "meta", pickle.dumps({"fine_label_names": [f"c{number}" for number in range(100)]}))
    cifar_batch(base / "train", data, [99, 3], "fine_labels")
    cifar_batch(base / "test", data[:1], [3], "fine_labels")
    classes, parts = cifar100(tmp_path)
    assert (len(classes), [row.label for row in parts[TRAIN]], len(parts[TEST])) == (100, [99, 3], 1)
    assert (pixels(parts[TRAIN][1]) == data[1]).all()


def test_svhn(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    for split in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": data, "y": np.array([[10], [1], [9], [2]])})
    classes, parts = svhn(tmp_path)
    assert classes == list("0123456789")
    assert [row.label for row in parts[TRAIN]] == [0, 1, 9, 2]  # published as 10: the digit 0
    assert (pixels(parts[TEST][3]) == data[..., 3]).all()
    assert parts[TEST][3].id == "svhn/test/00003"


def test_stl10(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    base = tmp_path / "stl10_binary"
    put(base / "class_names.txt", "\n".join(f"c{number}" for number in range(10)))
    for name in ("train", "test"):
        put(base / f"{name}_X.bin", data.transpose(0, 3, 2, 1).tobytes())  # stored by columns
        put(base / f"{name}_y.bin", bytes([1, 10, 4]))
    classes, parts = stl10(tmp_path)
    assert (len(classes), [row.label for row in parts[TRAIN]]) == (10, [0, 9, 3])
    assert (pixels(parts[TEST][1]) == data[1]).all()


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_that_names_more_than_arrays_is_refused(tmp_path, capsys):
    put(tmp_path / "cifar-100-python" / "meta", pickle.dumps({"fine_label_names": Harmful()}))
    with pytest.raises(pickle.UnpicklingError, match=r"it names builtins\.print; only arrays are read"):
        cifar100(tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_old_and_new_numpy_are_read(name):
    assert callable(ArrayUnpickler(io.BytesIO(f"c{name}\n_reconstruct\n.".encode())).load())
