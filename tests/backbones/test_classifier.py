import torch
from torch import nn

from drtune.backbones.classifier import Classifier, init_head, unwrapped


def test_forward_returns_features_and_their_logits():
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 5, 3)
    features, logits = model(torch.randn(4, 3, 2, 2))
    assert features.shape == (4, 5)
    assert torch.equal(logits, features @ model.head.weight.T + model.head.bias)
    assert (model.feature_dim, model.num_classes) == (5, 3)


def test_unwrapped_looks_through_wrappers():
    model = Classifier(nn.Flatten(), 12, 3)
    assert unwrapped(model) is model
    assert unwrapped(nn.DataParallel(model)) is model


def test_init_head_is_zero_or_small_normal_and_seeded():
    head = nn.Linear(400, 50)
    init_head(head, "zero", torch.Generator())
    assert not head.weight.any()
    assert not head.bias.any()
    init_head(head, "normal", torch.Generator().manual_seed(1))
    first = head.weight.detach().clone()
    assert abs(first.std().item() - 0.01) < 0.0005
    assert not head.bias.any()
    init_head(head, "normal", torch.Generator().manual_seed(1))
    assert torch.equal(first, head.weight)
