"""The numeric state of a process: whatever was set outside, a stage computes the same numbers."""

import os
import random
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits


def set_numeric_state(seed: int, threads: int, *, deterministic: bool = False) -> None:
    """Set everything global that can move a number, and make sure that it is set.

    cuBLAS reads its workspace setting when it is first used, so call this before any CUDA work. PyTorch would
    also fill all memory that it hands out, a twentieth of a step on the CPU, for code that reads before it
    writes; nothing here does.

    Args:
        seed: of Python's, NumPy's and PyTorch's generators.
        threads: of one operation on the CPU, PyTorch's and BLAS's; sums are split among them.
        deterministic: forbid kernels that do not repeat themselves; else cuDNN may also try several.

    Raises:
        RuntimeError: a switch did not take its value.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_flush_denormal(False)
    torch.set_grad_enabled(True)
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    wanted = {
        "threads": threads,
        "deterministic": deterministic,
        "cudnn.benchmark": not deterministic,
        "tf32": False,
        "dtype": torch.float32,
        "grad": True,
    }
    if (found := numeric_state()) != wanted:
        raise RuntimeError(f"the numeric state is {found}, wanted {wanted}")


def numeric_state() -> dict[str, Any]:
    """The switches as they stand."""
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "tf32": torch.backends.cudnn.allow_tf32 or torch.get_float32_matmul_precision() != "highest",
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
    }
