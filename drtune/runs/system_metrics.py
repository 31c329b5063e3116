"""Load of the machine over time, under the names of MLflow's System metrics tab, and most memory taken.

MLflow's own monitor sends to the store by itself: a store that is away would lose its samples.
"""

import importlib
import logging
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
MEGABYTE = 1e6
Log = Callable[[Mapping[str, float], int], None]


@contextmanager
def sampling(log_metrics: Log, last_step: Mapping[str, int], wanted: bool) -> Iterator[None]:
    """Log the machine's load during the block, where wanted, numbered on from the samples in `last_step`."""
    stop, number = threading.Event(), next_sample(last_step)

    def work() -> None:
        psutil.cpu_percent()  # the first call has nothing to compare with
        step, wait = number, min(1.0, EVERY_SECONDS)  # a short stage too has a sample
        try:
            gpus = gpu_handles()
            while not stop.wait(wait):
                log_metrics(sample(gpus), step)
                step, wait = step + 1, EVERY_SECONDS
        except Exception as error:  # a lost GPU must not end more than its own curve
            log.warning("system metrics end here: %s", error)

    if wanted:
        threading.Thread(target=work, name="system metrics", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def next_sample(last_step: Mapping[str, int]) -> int:
    """Number of the first system sample that a continued journal does not hold."""
    return 1 + max((step for name, step in last_step.items() if name.startswith("system/")), default=-1)


def sample(gpus: list[tuple[Any, Any]]) -> dict[str, float]:
    """One reading: percent and megabytes, of the whole machine except `process_memory`."""
    memory = psutil.virtual_memory()
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_megabytes": psutil.Process().memory_info().rss / MEGABYTE,
    }
    for index, (nvml, handle) in enumerate(gpus):
        values[f"gpu_{index}_utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        values[f"gpu_{index}_memory_usage_megabytes"] = nvml.nvmlDeviceGetMemoryInfo(handle).used / MEGABYTE
    return {f"system/{name}": value for name, value in values.items()}


def gpu_handles() -> list[tuple[Any, Any]]:
    """(pynvml, handle) of every GPU; none without a GPU or without nvidia-ml-py (the extra `gpu`)."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
        return [(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []


def peak_memory() -> dict[str, float]:
    """Most memory that this process has held, in megabytes: resident, and on each GPU that PyTorch used."""
    unit, torch = 1 if sys.platform == "darwin" else 1024, sys.modules.get("torch")
    peaks = {"peak_memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE}
    if torch is not None and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            peaks[f"peak_gpu_{index}_memory_megabytes"] = torch.cuda.max_memory_allocated(index) / MEGABYTE
    return peaks
