import pytest
import torch
from torch import nn

from drtune.base.errors import ConfigError, ShortageError
from drtune.training.hardware import made_on, pick_precision, refuse_too_large
from drtune.training.settings import TrainSettings

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
MANY = 2**28
"""Parameters that take a quarter of a GiB a byte."""


@pytest.fixture
def capability(monkeypatch):
    """Set the generation of the card."""

    def set_to(major):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")

    return set_to


def test_auto_is_bf16_where_the_card_computes_it_and_float32_elsewhere(capability):
    assert (pick_precision("auto", CPU), pick_precision("auto", MPS)) == ("no", "no")
    for major, wanted in ((7, "no"), (8, "bf16"), (9, "bf16")):
        capability(major)
        assert pick_precision("auto", CUDA) == wanted


@pytest.mark.parametrize("choice", ["no", "bf16"])
def test_a_cpu_computes_float32_and_bf16(choice):
    assert pick_precision(choice, CPU) == choice


def test_an_ampere_card_computes_all(capability):
    capability(8)
    assert [pick_precision(choice, CUDA) for choice in ("no", "bf16", "fp16")] == ["no", "bf16", "fp16"]


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(
        ConfigError, match=r'train\.precision: cpu does not compute fp16; set one of auto, "no", bf16$'
    ):
        pick_precision("fp16", CPU)


def test_bf16_is_refused_on_a_card_that_imitates_it(capability):
    capability(7)
    with pytest.raises(ConfigError, match=r'a card does not compute bf16; set one of auto, "no", fp16$'):
        pick_precision("bf16", CUDA)
    assert pick_precision("fp16", CUDA) == "fp16"


def settings(**change):
    return TrainSettings.model_construct(**{"optimizer": "adamw", "ema_decay": None, **change})


@pytest.fixture
def model():
    """A quarter of a billion parameters that take no memory."""
    return nn.Linear(2**14, 2**14, bias=False, device="meta")


@pytest.mark.parametrize(("change", "each"), [({}, 16), ({"optimizer": "sgd"}, 12), ({"ema_decay": 0.9}, 20)])
def test_a_model_whose_state_does_not_fit_is_refused(model, monkeypatch, capability, change, each):
    capability(9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (each * MANY, 2**40))
    refuse_too_large(model, settings(**change), CUDA)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (each * MANY - 1, 2**40))
    figures = rf"{each} bytes a parameter, {each / 4:.1f} GiB in all, and a card has {each / 4:.1f} GiB free"
    with pytest.raises(ShortageError, match=f"{figures}; take a smaller backbone.name, train.optimizer: sgd"):
        refuse_too_large(model, settings(**change), CUDA)


def test_a_cpu_takes_any_model(model):
    refuse_too_large(model, settings(), CPU)


def test_a_cpu_leaves_no_name_in_a_result(finished_stage):
    assert made_on(finished_stage({}).params) == {"device": "cpu", "precision": "no"}
