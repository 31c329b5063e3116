from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import Classifier
from drtune.base.settings import Settings
from drtune.data.batch import Batch
from drtune.methods.linear_probe.method import LinearProbe
from drtune.params import load
from drtune.training.settings import TrainSettings

TRAIN = load(Path(__file__).resolve().parents[3] / "params.yaml")[TrainSettings]


def test_only_the_head_is_trained():
    assert LinearProbe.trains == "head"


def test_objective_is_the_mean_cross_entropy_on_the_features():
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 5, 3)
    images, labels = torch.randn(6, 3, 2, 2), torch.tensor([0, 1, 2, 2, 1, 0])
    batch = Batch(images, labels, torch.arange(6), torch.zeros(6, dtype=torch.long))
    loss = LinearProbe(Settings(), TRAIN).loss(model, batch)
    expected = cross_entropy(model.encoder(images) @ model.head.weight.T + model.head.bias, labels)
    assert torch.allclose(loss.terms["cross_entropy"], expected)
    assert torch.equal(loss.total, loss.terms["cross_entropy"])
