import subprocess
import sys

import pytest

from drtune.base.memory import keep_freed_memory

STEPS = """
import resource, torch
from drtune.base.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def step():
    return [torch.ones(size << 20) for size in (1, 12, 3, 40)]
for _ in range(8):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Page faults of five steps that allocate 4, 48, 12 and 160 MB each, after eight to settle."""
    command = [sys.executable, "-c", STEPS.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library has no mallopt: not glibc")
def test_freed_memory_costs_no_page_faults_again():
    assert faults(keep=True) * 20 < faults(keep=False)


def test_other_c_libraries_are_left_alone(monkeypatch):
    keep_freed_memory.cache_clear()
    monkeypatch.setattr("drtune.base.memory.ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
    keep_freed_memory.cache_clear()


def test_older_glibc_takes_the_lower_limit(monkeypatch):
    calls = []

    class Older:
        def mallopt(self, name, value):
            calls.append((name, value))
            return int(value <= 1 << 25)

    keep_freed_memory.cache_clear()
    monkeypatch.setattr("drtune.base.memory.ctypes.CDLL", lambda name: Older())
    assert keep_freed_memory() is True
    assert calls == [(-3, 1 << 30), (-3, 1 << 25), (-1, -1)]
    keep_freed_memory.cache_clear()
