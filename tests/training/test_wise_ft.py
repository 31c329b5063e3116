import pytest
import torch
from torch import nn

from drtune.backbones.classifier import Classifier
from drtune.training.wise_ft import WeightEnsemble


def classifier(seed):
    torch.manual_seed(seed)
    model = Classifier(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten()), 4, 2)
    model.encoder[1].running_mean.normal_()
    model.encoder[1].num_batches_tracked.fill_(seed)
    return model


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_weights_and_statistics_are_between_the_start_and_now(alpha):
    start, now = classifier(1), classifier(2)
    ensemble = WeightEnsemble(start, alpha)
    ensemble.begin(start)
    mixed = ensemble.of(now).state_dict()
    for name, value in start.state_dict().items():
        if value.is_floating_point():
            expected = (1 - alpha) * value + alpha * now.state_dict()[name]
            torch.testing.assert_close(mixed[name], expected)
    assert mixed["encoder.1.num_batches_tracked"] == 2


def test_neither_model_changes_and_the_start_is_a_copy():
    model = classifier(1)
    ensemble = WeightEnsemble(model, 0.5)
    ensemble.begin(model)
    kept = {name: value.clone() for name, value in ensemble.start.items()}
    with torch.no_grad():
        model.head.weight.add_(1)
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    ensemble.of(model)
    assert all(torch.equal(value, ensemble.start[name]) for name, value in kept.items())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in trained.items())


def test_at_the_start_it_is_the_start_bit_for_bit():
    model = classifier(3)
    ensemble = WeightEnsemble(model, 0.3)
    ensemble.begin(model)
    mixed = ensemble.of(model)
    assert all(torch.equal(value, mixed.state_dict()[name]) for name, value in model.state_dict().items())
    assert not mixed.training
