import math
from pathlib import Path

import torch
from torch import nn

from drtune.backbones.classifier import Classifier
from drtune.base.settings import Settings
from drtune.data.batch import Batch
from drtune.methods.finetune.method import FineTune
from drtune.params import load
from drtune.training.settings import TrainSettings

TRAIN = load(Path(__file__).resolve().parents[3] / "params.yaml")[TrainSettings]


def slow_cross_entropy(logits, labels, smoothing):
    total = 0.0
    for row, label in zip(logits.detach().tolist(), labels.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        for c, value in enumerate(row):
            target = (1 - smoothing) * (c == label) + smoothing / len(row)
            total -= target * (value - norm)
    return total / len(labels)


def test_objective_is_the_mean_cross_entropy_of_the_batch():
    model = Classifier(nn.Flatten(), 12, 3)
    images, labels = torch.randn(5, 3, 2, 2), torch.tensor([0, 1, 2, 2, 1])
    item = Batch(images, labels, torch.arange(5), torch.zeros(5, dtype=torch.long))
    for smoothing in (0.0, 0.1):
        method = FineTune(Settings(), TRAIN.model_copy(update={"label_smoothing": smoothing}))
        terms = method.loss(model, item).weighted
        assert list(terms) == ["cross_entropy"]
        expected = slow_cross_entropy(model(images).logits, labels, smoothing)
        assert abs(terms["cross_entropy"].item() - expected) < 1e-5


def test_all_parameters_are_trained():
    assert FineTune.trains == "all"
