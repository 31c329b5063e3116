import sys
import threading
import types

from drtune.runs.system_metrics import SystemMetrics, gpu_handles, sample


def test_samples_are_numbered_on_from_the_first():
    seen, enough = [], threading.Event()

    def log(values, step):
        seen.append((step, values))
        if len(seen) == 2:
            enough.set()

    sampler = SystemMetrics(log, first=5, every=0.01)
    sampler.start()
    assert enough.wait(10)
    sampler.stop()
    sampler.join(10)
    assert not sampler.is_alive()
    assert [step for step, _ in seen[:2]] == [5, 6]
    assert (
        0 < seen[0][1]["system/process_memory_megabytes"] < seen[0][1]["system/system_memory_usage_megabytes"]
    )


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
    def fail(gpus):
        raise OSError("gone")

    monkeypatch.setattr("drtune.runs.system_metrics.sample", fail)
    sampler = SystemMetrics(lambda values, step: None, every=0.01)
    sampler.start()
    sampler.join(10)
    assert not sampler.is_alive()
    assert "system metrics end here: gone" in caplog.text
