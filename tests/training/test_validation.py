import math

import pytest
import torch

from drtune.backbones.predictions import Predictions
from drtune.training.validation import validation_scores


def predictions_of(logits, labels):
    return Predictions(logits, logits, labels, torch.arange(len(labels)))


def test_validation_scores():
    logits, labels = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    scores = validation_scores(predictions_of(logits, labels))
    assert scores == pytest.approx({"accuracy": 0.5, "accuracy_se": 0.353553, "loss": 0.693147}, abs=1e-6)
    three = predictions_of(torch.tensor([[9.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    assert validation_scores(three)["accuracy_se"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
