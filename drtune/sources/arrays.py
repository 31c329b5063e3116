"""The layouts of published data sets whose images are arrays; each becomes a PNG, which loses nothing."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drtune.data.packed import Split
from drtune.sources.samples import Listing, array_samples

TRAIN, TEST = Split.TRAIN, Split.TEST


class ArrayUnpickler(pickle.Unpickler):
    """Read containers and NumPy arrays alone: any other name in a pickle could run code."""

    ALLOWED = (
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    )

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Refuse what is not listed.

        Raises:
            UnpicklingError: naming it.
        """
        if (module_name, global_name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}; only arrays are read")
        return super().find_class(module_name, global_name)


def unpickled(path: Path) -> Any:
    """Read one pickle of the CIFAR sets; Python 2 wrote them."""
    with path.open("rb") as stream:
        return ArrayUnpickler(stream, encoding="latin1").load()


def cifar10(tree: Path) -> Listing:
    """CIFAR-10: train in five batches, and test."""
    base = tree / "cifar-10-batches-py"
    names = unpickled(base / "batches.meta")["label_names"]
    batches = {TRAIN: [f"data_batch_{number}" for number in range(1, 6)], TEST: ["test_batch"]}
    return names, {
        split: cifar_samples(f"cifar10/{split}", [base / name for name in part], "labels")
        for split, part in batches.items()
    }


def cifar100(tree: Path) -> Listing:
    """CIFAR-100 with its fine labels: train and test."""
    base = tree / "cifar-100-python"
    names = unpickled(base / "meta")["fine_label_names"]
    return names, {
        split: cifar_samples(f"cifar100/{split}", [base / split], "fine_labels") for split in (TRAIN, TEST)
    }


def cifar_samples(prefix: str, paths: list[Path], labels: str) -> list[Any]:
    """Samples of batches that hold `data` [N, 3072], all red values before green and blue, and labels [N]."""
    batches = [unpickled(path) for path in paths]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    found = [label for batch in batches for label in batch[labels]]
    return array_samples(prefix, images.transpose(0, 2, 3, 1), found)


def mat(path: Path) -> Mapping[str, Any]:
    """Read a MATLAB file; arrays lose their axes of length 1."""
    from scipy.io import loadmat  # half a second that most layouts do not need

    content: Mapping[str, Any] = loadmat(path, squeeze_me=True)
    return content


def svhn(tree: Path) -> Listing:
    """SVHN, cropped digits: train and test; the additional easy images are not used.

    A file holds `X` [32, 32, 3, N] and `y` [N, 1], where 10 stands for the digit 0.
    """
    tables = {split: mat(tree / f"{split}_32x32.mat") for split in (TRAIN, TEST)}
    return [str(digit) for digit in range(10)], {
        split: array_samples(f"svhn/{split}", table["X"].transpose(3, 0, 1, 2), table["y"] % 10)
        for split, table in tables.items()
    }


def stl10(tree: Path) -> Listing:
    """STL-10: the 5,000 labelled train images, and test; images lie by columns, labels are 1..10."""
    base = tree / "stl10_binary"
    parts = {}
    for split in (TRAIN, TEST):
        images = np.fromfile(base / f"{split}_X.bin", np.uint8).reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        labels = np.fromfile(base / f"{split}_y.bin", np.uint8) - 1
        parts[split.value] = array_samples(f"stl10/{split}", np.ascontiguousarray(images), labels)
    return (base / "class_names.txt").read_text(encoding="utf-8").split(), parts
