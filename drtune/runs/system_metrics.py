"""Load of the machine over time, under the names of MLflow's System metrics tab."""

import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil

log = logging.getLogger(__name__)

MEGABYTE = 1e6
Log = Callable[[Mapping[str, float], int], None]


class SystemMetrics(threading.Thread):
    """Logs a sample every few seconds until stopped.

    Args:
        log: takes name -> value and the sample's number.
        first: number of the first sample.
        every: seconds between samples.
    """

    def __init__(self, log: Log, first: int = 0, every: float = 10.0) -> None:
        super().__init__(name="system metrics", daemon=True)
        self._log, self._number, self._every = log, first, every
        self._stop_asked = threading.Event()
        self._gpus = gpu_handles()

    def run(self) -> None:
        """Sample until stopped."""
        psutil.cpu_percent()  # the first call has nothing to compare with
        wait = min(1.0, self._every)  # a short stage too has a sample
        while not self._stop_asked.wait(wait):
            wait = self._every
            try:
                values = sample(self._gpus)
            except Exception as error:  # a lost GPU must not end more than its own curve
                log.warning("system metrics end here: %s", error)
                return
            self._log(values, self._number)
            self._number += 1

    def stop(self) -> None:
        """Take no more samples."""
        self._stop_asked.set()


def sample(gpus: list[tuple[Any, Any]]) -> dict[str, float]:
    """One reading: percent and megabytes, of the whole machine except `process_memory`."""
    memory = psutil.virtual_memory()
    values = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system/system_memory_usage_percentage": memory.percent,
        "system/process_memory_megabytes": psutil.Process().memory_info().rss / MEGABYTE,
    }
    for index, (nvml, handle) in enumerate(gpus):
        used = nvml.nvmlDeviceGetMemoryInfo(handle).used
        values[f"system/gpu_{index}_utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        values[f"system/gpu_{index}_memory_usage_megabytes"] = used / MEGABYTE
    return values


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


@contextmanager
def sampling(log: Log, first: int, wanted: bool) -> Iterator[None]:
    """Log the machine's load during the block, where wanted, counting samples from `first`."""
    if not wanted:
        yield
        return
    sampler = SystemMetrics(log, first)
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()
