import os

import pytest
from pydantic import ValidationError

from drtune.base import runtime
from drtune.base.runtime import RuntimeSettings, processors


def settings(**change):
    return RuntimeSettings(
        **{"device": "auto", "workers": "auto", "threads": "auto", "compile": False, **change}
    )


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 0), (3, 1), (10, 8), (64, 16)])
def test_auto_leaves_two_processors_to_the_training(monkeypatch, cores, workers):
    monkeypatch.setattr(runtime, "processors", lambda: cores)
    assert settings().num_workers == workers
    assert settings().num_threads == cores


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3", "mps"])
def test_known_devices(device):
    assert settings(device=device).device == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_other_devices_are_refused(device):
    with pytest.raises(ValidationError, match="expected auto, cpu, cuda, cuda:N or mps"):
        settings(device=device)


def test_numbers_are_taken_as_they_are():
    assert settings(workers=5, threads=3).num_workers == 5
    assert settings(workers=5, threads=3).num_threads == 3


def test_processors_are_those_that_the_process_may_use():
    assert processors() == len(os.sched_getaffinity(0))
