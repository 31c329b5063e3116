import sys
import threading
import types

from drtune.runs import system_metrics
from drtune.runs.system_metrics import gpu_handles, sample, sampling


def test_samples_are_numbered_on_from_the_first(monkeypatch):
    seen, enough = [], threading.Event()
    monkeypatch.setattr(system_metrics, "EVERY_SECONDS", 0.01)

    def log(values, step):
        seen.append((step, values))
        if len(seen) == 2:
            enough.set()

    with sampling(log, {"system/cpu_utilization_percentage": 4}, wanted=True):
        assert enough.wait(10)
    assert [step for step, _ in seen[:2]] == [5, 6]
    assert (
        0 < seen[0][1]["system/process_memory_megabytes"] < seen[0][1]["system/system_memory_usage_megabytes"]
    )
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "system metrics"] or [None]
    if thread:
        thread.join(10)
        assert not thread.is_alive()


def test_nothing_is_sampled_unless_it_is_wanted():
    with sampling(lambda values, step: None, {}, wanted=False):
        assert "system metrics" not in [thread.name for thread in threading.enumerate()]


def test_gpus_are_read_where_there_are_any(monkeypatch):
    nvml = types.ModuleType("pynvml")
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetCount = lambda: 2
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=5e6 * (handle + 1))
    nvml.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=10 * handle)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    values = sample(gpu_handles())
    assert values["system/gpu_1_memory_usage_megabytes"] == 10
    assert values["system/gpu_1_utilization_percentage"] == 10


def test_without_the_library_or_the_driver_there_are_no_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_handles() == []
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = type("NVMLError", (Exception,), {})

    def fail():
        raise nvml.NVMLError("no driver")

    nvml.nvmlInit = fail
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpu_handles() == []


def test_a_reading_that_fails_ends_the_curve_and_nothing_else(monkeypatch, caplog):
    asked = threading.Event()

    def fail(gpus):
        asked.set()
        raise OSError("gone")

    monkeypatch.setattr(system_metrics, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(system_metrics, "sample", fail)
    with sampling(lambda values, step: None, {}, wanted=True):
        assert asked.wait(10)
        for thread in threading.enumerate():
            if thread.name == "system metrics":
                thread.join(10)
    assert "system metrics end here: gone" in caplog.text
