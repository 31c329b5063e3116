"""One seed for everything that draws; PyTorch is imported where a generator of its own is asked for."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *parts: int | str) -> int:
    """Return a 63-bit seed that is a fixed function of `seed` and `parts`.

    Streams drawn from derived seeds are independent of one another, so a sample's augmentation can be a
    function of (seed, epoch, sample) whatever was drawn before it.
    """
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *parts: int | str) -> "torch.Generator":
    """Return a CPU generator seeded by `derive`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *parts))
