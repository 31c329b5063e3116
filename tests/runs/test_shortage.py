import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from drtune.params import load
from drtune.runs.shortage import out_of_memory, shortage

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which "
    "1.20 GiB is free. Process 7 has 77.88 GiB memory in use. Of the allocated memory 70.00 GiB is allocated "
    "by PyTorch, and 5.00 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
BUS = (
    "DataLoader worker (pid 42) is killed by signal: Bus error. It is possible that dataloader's workers "
    "are out of shared memory. Please try to raise your shared memory limit."
)
KILLED = "DataLoader worker (pid 42) is killed by signal: Killed. "
HOST = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.fixture
def params(tmp_path, tiny_params):
    return load(tiny_params(tmp_path / "params.yaml", {"train.precision": "no", "runtime.workers": 6}))


def test_a_gpu_s_figures_stay_and_the_settings_that_help_are_named_as_they_stand(params):
    words = out_of_memory(torch.OutOfMemoryError(CUDA), "train", params)
    figures = CUDA.partition(". If reserved")[0]
    assert words == (
        f"out of GPU memory: {figures}. Remedy: lower train.batch_size (8) or backbone.image_size (32), or "
        "take a smaller backbone, or set train.precision: bf16; nvidia-smi shows who else holds memory"
    )


@pytest.mark.parametrize(("stage", "size"), [("extract", 8), ("evaluate", 256)])
def test_every_stage_names_its_own_batch_size(params, stage, size):
    words = out_of_memory(torch.OutOfMemoryError(CUDA), stage, params)
    assert f"lower {stage}.batch_size ({size}) or" in words
    assert "precision" not in words


@pytest.mark.parametrize(
    ("fault", "kind", "remedy"),
    [
        (
            RuntimeError(BUS),
            "shared memory (/dev/shm)",
            "lower runtime.workers (6), 0 needs none",
        ),
        (RuntimeError(KILLED), "memory", "lower runtime.workers (6) or train.batch_size (8)"),
        (RuntimeError(HOST), "memory", "lower runtime.workers (6) or train.batch_size (8)"),
        (MemoryError(), "memory", "no figures. Remedy: lower runtime.workers (6)"),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 5 GB). Use PYTORCH_X"),
            "GPU memory",
            "lower",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), "GPU memory", "lower train."),
    ],
    ids=["shared", "killed", "host", "python", "mps", "cublas"],
)
def test_each_kind_of_memory_has_its_own_remedy(params, fault, kind, remedy):
    words = out_of_memory(fault, "train", params)
    assert words.startswith(f"out of {kind}: ")
    assert remedy in words
    assert "Please try" not in words
    assert "PYTORCH_" not in words


class Dying(Dataset):
    """Its worker ends by a signal, as the kernel does it."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return 1

    def __getitem__(self, row):
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGBUS, "shared memory (/dev/shm)"), (signal.SIGKILL, "memory")]
)
def test_a_worker_that_the_kernel_ends_is_recognised(number, kind):
    with pytest.raises(RuntimeError) as caught:
        next(iter(DataLoader(Dying(number), num_workers=1)))
    assert shortage(caught.value)[0] == kind


def test_a_real_allocation_that_is_too_large_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    kind, figures = shortage(caught.value)
    assert kind == "memory"
    assert str(2**60) in figures


def test_other_faults_are_left_alone(params):
    for fault in (RuntimeError("shape mismatch"), ValueError(CUDA)):
        assert out_of_memory(fault, "train", params) is None
    assert out_of_memory(torch.OutOfMemoryError(CUDA), "download", params) is None
