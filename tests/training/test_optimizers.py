import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from drtune.backbones.classifier import Classifier
from drtune.training.optimizers import build_optimizer, build_schedule, factor, parameter_groups
from drtune.training.settings import TrainSettings

BASE = {
    "method": "finetune", "seed": 0, "epochs": 4, "batch_size": 8, "drop_last": False, "optimizer": "sgd",
    "lr_backbone": 0.01, "lr_head": 0.33, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1,
    "decay_norm_and_bias": False, "schedule": "cosine", "schedule_every": "step", "warmup_epochs": 0.0,
    "label_smoothing": 0.0, "clip_norm": None, "batch_norm": "train", "head_init": "normal",
    "head_scale": 1.0, "lr_head_unit": "absolute", "ema_decay": None, "wise_ft": None, "monitor": "accuracy",
    "precision": "no", "deterministic": True,
}  # fmt: skip


def settings(**change):
    return TrainSettings(**{**BASE, **change})


def classifier():
    return Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), 16, 2)


def test_groups_carry_their_rates_and_leave_vectors_undecayed():
    groups = parameter_groups(classifier(), settings())
    shown = [(g["name"], g["lr"], g["weight_decay"], len(g["params"])) for g in groups]
    assert shown == [
        ("backbone", 0.01, 0.1, 1),
        ("backbone", 0.01, 0.0, 3),
        ("head", 0.33, 0.1, 1),
        ("head", 0.33, 0.0, 1),
    ]
    groups = parameter_groups(classifier(), settings(decay_norm_and_bias=True))
    assert [(g["name"], g["weight_decay"], len(g["params"])) for g in groups] == [
        ("backbone", 0.1, 4),
        ("head", 0.1, 2),
    ]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_on_cuda_one_kernel_steps_all_parameters(name):
    with FakeTensorMode(), torch.device("cuda"):  # CUDA tensors without a GPU
        model = classifier()
        on_cuda = build_optimizer(model, settings(optimizer=name))
    assert on_cuda.defaults["fused"] is True
    assert not build_optimizer(classifier(), settings(optimizer=name)).defaults["fused"]


def test_frozen_parameters_are_left_out():
    model = classifier()
    model.encoder.requires_grad_(False)
    assert {g["name"] for g in parameter_groups(model, settings())} == {"head"}


def test_optimizers_are_the_named_ones():
    assert build_optimizer(classifier(), settings()).defaults["nesterov"] is True
    assert type(build_optimizer(classifier(), settings(optimizer="adamw"))).__name__ == "AdamW"


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_cosine_follows_its_formula(every):
    s = settings(schedule_every=every)
    for step in range(40):
        t = (step if every == "step" else step // 10 * 10) / 40
        assert factor(step, s, epochs=4, steps=10) == pytest.approx(0.5 * (1 + math.cos(math.pi * t)))


def test_linear_constant_and_warmup():
    assert factor(20, settings(schedule="linear"), 4, 10) == pytest.approx(0.5)
    assert factor(39, settings(schedule="constant"), 4, 10) == 1.0
    warm = settings(warmup_epochs=1.0)
    values = [factor(step, warm, 4, 10) for step in range(40)]
    assert values[0] == pytest.approx(1 / 11)
    assert values[:11] == sorted(values[:11])
    assert values[10] == 1.0
    assert values[10:] == sorted(values[10:], reverse=True)


def test_schedule_scales_every_group_by_its_own_peak():
    optimizer = build_optimizer(classifier(), settings())
    schedule = build_schedule(optimizer, settings(), epochs=1, steps=2)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    schedule.step()
    assert [round(g["lr"], 6) for g in optimizer.param_groups] == [0.005, 0.005, 0.165, 0.165]
