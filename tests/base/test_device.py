import re
import subprocess
import sys
import warnings

import pytest
import torch

from drtune.base import device as module
from drtune.base.device import about_device, chosen_device, pick_device, runs_on, trouble_with_cuda
from drtune.base.errors import ConfigError

OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
)


def failing(words):
    def init():
        raise RuntimeError(words)

    return init


@pytest.fixture
def card(monkeypatch):
    """A machine with two H200 that PyTorch can use."""
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_capability": lambda index: (9, 0),
        "get_arch_list": lambda: ["sm_80", "sm_90", "compute_90"],
        "get_device_name": lambda index: "NVIDIA H200",
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    monkeypatch.setattr(module, "driver", lambda: "580.159.04")
    monkeypatch.setattr(module, "cards", lambda: ["NVIDIA H200", "NVIDIA H200"])


@pytest.fixture
def no_driver(card, monkeypatch):
    """The same machine with a driver that is too old."""

    def is_available():
        warnings.warn(f"CUDA initialization: {OLD_DRIVER}", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "init", failing(f"{OLD_DRIVER}\nmore"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_auto_takes_a_gpu_where_there_is_one(card):
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")
    assert chosen_device("auto") == "cuda, card NVIDIA H200, driver 580.159.04, cuda 13.0, cudnn 91900"


def test_auto_says_why_it_cannot_take_a_gpu_that_is_there(no_driver):
    assert pick_device("auto") == torch.device("cpu")
    assert chosen_device("auto") == f"cpu, although there is a GPU (NVIDIA H200): {OLD_DRIVER}"
    assert chosen_device("cpu") == "cpu"


def test_without_a_gpu_auto_is_the_cpu_and_nothing_more_is_said(no_driver, monkeypatch):
    monkeypatch.setattr(module, "cards", list)
    assert chosen_device("auto") == "cpu"
    assert about_device(torch.device("cpu")) == {"device": "cpu"}


@pytest.mark.parametrize("choice", ["cuda", "cuda:0"])
def test_a_gpu_that_is_demanded_and_cannot_be_used_is_refused(no_driver, choice):
    with pytest.raises(
        ConfigError, match=rf"runtime\.device: {choice}: {re.escape(OLD_DRIVER)}\. Or take auto or cpu"
    ):
        pick_device(choice)


def test_what_hides_the_gpus_is_named(no_driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "init", failing("No CUDA GPUs are available"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=r"No CUDA GPUs are available \(CUDA_VISIBLE_DEVICES is ''\)"):
        pick_device("cuda")


def test_a_number_that_no_gpu_has_is_refused(card):
    with pytest.raises(
        ConfigError, match=r"cuda:2: there is no such GPU: PyTorch sees 2, cuda:0 to cuda:1\. Or take"
    ):
        pick_device("cuda:2")


def test_a_build_without_cuda_is_named(card, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert re.fullmatch(r"PyTorch \S+ is built without CUDA; install a build with it .*", trouble_with_cuda())


def test_a_card_that_the_build_has_no_code_for_is_named(card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    card = r"NVIDIA H200 \(compute capability 7\.0\)"
    assert re.match(
        rf"PyTorch \S+ has no code for {card}, it is built for sm_80, sm_90,", trouble_with_cuda()
    )
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("code", "capability", "runs"),
    [
        ("sm_86", (8, 6), True),
        ("sm_86", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_86", (9, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_120", (12, 0), True),
        ("sm_120", (10, 0), False),
        ("compute_80", (12, 1), True),
        ("compute_90", (8, 9), False),
    ],
)
def test_code_runs_on_its_generation_and_ptx_on_later_ones(code, capability, runs):
    assert runs_on(code, capability) is runs


def test_mps_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="mps: PyTorch finds no Apple GPU here; take auto or cpu"):
        pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("mps")


def test_this_machine_s_own_answer_needs_no_mock():
    code = "from drtune.base.device import *; print(pick_device('auto'), bool(trouble_with_cuda()))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() in (["cpu", "True"], ["cuda", "False"])
