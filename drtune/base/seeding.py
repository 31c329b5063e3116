"""One seed for everything that draws, and switches that make PyTorch repeat itself."""

import hashlib
import os
import random

import numpy as np
import torch


def derive(seed: int, *parts: int | str) -> int:
    """Return a 63-bit seed that is a fixed function of `seed` and `parts`.

    Streams drawn from derived seeds are independent of one another, so a sample's augmentation can be a
    function of (seed, epoch, sample) whatever was drawn before it.
    """
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, *parts))


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed Python, NumPy and PyTorch; `deterministic` also forbids kernels that do not repeat themselves.

    cuBLAS reads its workspace setting when it is first used, so call this before any CUDA work. PyTorch would
    also fill all memory that it hands out, a twentieth of a step on the CPU, for code that reads before it
    writes; nothing here does.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
