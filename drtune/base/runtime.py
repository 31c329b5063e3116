"""`runtime` in params.yaml: what may change the speed and the last bits, never the mathematics.

No stage depends on it; a run records it.
"""

import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from drtune.base.settings import Count, Settings, Whole

MOST_WORKERS = 16
"""Each takes memory. Eight fed an H200 at a third of the speed of ResNet-50's steps (docs/results/gpu.md)."""


def known_device(value: str) -> str:
    """Validate that a text names a kind of device; `pick_device` says whether it is there."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise PydanticCustomError("device", "expected auto, cpu, cuda, cuda:N or mps")
    return value


class RuntimeSettings(Settings):
    """`runtime`: where and with how many hands a stage works."""

    device: Annotated[str, AfterValidator(known_device)]
    workers: Literal["auto"] | Whole
    threads: Literal["auto"] | Count
    compile: bool

    @property
    def num_workers(self) -> int:
        """Processes that decode images; `auto` leaves two processors to the training itself."""
        spare = processors() - 2
        return min(max(spare, 0), MOST_WORKERS) if self.workers == "auto" else self.workers

    @property
    def num_threads(self) -> int:
        """Threads of one operation on the CPU; `auto` is one a processor."""
        return processors() if self.threads == "auto" else self.threads


def processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
