from itertools import pairwise

import pytest
import torch
from torch import nn

from drtune.backbones.projection import projection_head
from drtune.base.seeding import generator


@pytest.mark.parametrize("widths", [(8, 3), (8, 8, 3), (8, 6, 5, 3)])
def test_linear_layers_with_relu_in_between(widths):
    head = projection_head(widths, generator(0))
    linear = [module for module in head if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == list(pairwise(widths))
    assert [type(m) for m in head] == ([nn.Linear, nn.ReLU] * len(widths))[: 2 * len(linear) - 1]
    rows = torch.randn(5, widths[0])
    expected = rows
    for number, layer in enumerate(linear):
        expected = (expected.clamp_min(0) if number else expected) @ layer.weight.T + layer.bias
    torch.testing.assert_close(head(rows), expected)
    head(rows).sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in head.parameters())


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (projection_head((16, 16, 4), generator(seed)).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    d = projection_head((16, 16, 4), generator(0)).state_dict()
    for name in a:
        assert torch.equal(a[name], b[name])
        assert torch.equal(a[name], d[name])
        assert not torch.equal(a[name], c[name])


def test_weights_are_drawn_as_pytorch_draws_them():
    torch.manual_seed(0)
    ours, theirs = projection_head((64, 500), generator(0))[0], nn.Linear(64, 500)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.shape == reference.shape
        assert mine.std().item() == pytest.approx(reference.std().item(), rel=0.1)
        assert mine.abs().max().item() <= 64**-0.5
