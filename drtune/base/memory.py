"""What the C library does with memory that PyTorch frees on the CPU."""

import ctypes
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h; see mallopt(3)."""
NEVER = -1
LARGEST_KEPT = 1 << 30
"""Bytes; the activations of ResNet-50 at 224 px and 64 images take 205 million."""
LARGEST_KEPT_BEFORE = 1 << 25
"""The same for older releases, which refuse more."""


@cache
def keep_freed_memory() -> bool:
    """Keep freed memory in the process for the tensors to come; no result depends on it.

    glibc hands large blocks back to the system when they are freed. A training step frees all its
    activations, and the next step is charged for every page anew: a quarter to a half of its time on a CPU
    (docs/log.md, 2026-11-22). The process stays as large as its largest step made it.

    Returns:
        False where the C library is another one (macOS, musl) and goes on as before.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    large = mallopt(MMAP_THRESHOLD, LARGEST_KEPT) or mallopt(MMAP_THRESHOLD, LARGEST_KEPT_BEFORE)
    return bool(large and mallopt(TRIM_THRESHOLD, NEVER))
