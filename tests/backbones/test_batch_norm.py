import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d, SplitBatchNorm2d
from torch import nn

from drtune.backbones.batch_norm import (
    Statistics,
    convert,
    convert_batch_norms,
    convertible,
    input_statistics,
    merged,
    moments,
    unbiased,
)
from drtune.base.seeding import generator

GOLDEN = Path(__file__).resolve().parents[3] / "shared/golden/daft_bn_conversion_official.safetensors"
RULES = ["total_variance", "official"]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def unsettled(norm, seed=1):
    """Give a batch norm weights and statistics that are far from neutral."""
    with torch.no_grad():
        norm.weight.copy_(draw(norm.num_features, seed=seed))
        norm.bias.copy_(draw(norm.num_features, seed=seed + 1))
        norm.running_mean.copy_(draw(norm.num_features, seed=seed + 2) * 3)
        norm.running_var.copy_(draw(norm.num_features, seed=seed + 3).exp())
    return norm


def deep():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3),
        BatchNormAct2d(6, act_layer=nn.ReLU),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4, 1e-3),
    ]
    net = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5))
    for norm in (net[1], net[3], net[7]):
        unsettled(norm)
    return net.eval()


def batches(sizes=(8, 8, 3), shift=2.0):
    return [draw(size, 3, 8, 8, seed=10 + i) * (1 + i) + shift * i for i, size in enumerate(sizes)]


def expected(parts, rule):
    """Mean and variance by loops over channels and values, in float64."""
    mean, variance = [], []
    for c in range(parts[0].shape[1]):
        lists = [[float(v) for v in part[:, c].flatten()] for part in parts]
        if rule == "total_variance":
            lists = [[v for values in lists for v in values]]
        means = [sum(values) / len(values) for values in lists]
        spreads = [
            sum((v - m) ** 2 for v in values) / (len(values) - 1)
            for values, m in zip(lists, means, strict=True)
            if len(values) > 1
        ]
        mean.append(sum(means) / len(means))
        variance.append(sum(spreads) / len(spreads) if spreads else 0.0)
    return np.array(mean), np.array(variance)


def test_the_official_conversion():
    if not GOLDEN.is_file():
        pytest.skip("official tensors are not beside the repository (../shared/golden)")
    of = load_file(GOLDEN)
    first, second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 12, 3, 2, padding=1, bias=False)
    net = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.BatchNorm2d(12), nn.ReLU()).eval()
    given = {name.removeprefix("before."): value for name, value in of.items() if name.startswith("before.")}
    counts = {name: torch.tensor(0) for name in net.state_dict() if name.endswith("num_batches_tracked")}
    net.load_state_dict(given | counts)
    convert_batch_norms(net, of["inputs"], "official")
    for name, value in net.state_dict().items():
        if f"after.{name}" in of:
            wanted = of[f"after.{name}"]
            assert (value - wanted).abs().max() <= 1e-4 * wanted.abs().max(), name
    with torch.no_grad():
        output = torch.stack([net(images) for images in of["inputs"]])
    assert (output - of["eval_output_after"]).abs().max() <= 1e-4 * of["eval_output_after"].abs().max()


@pytest.mark.parametrize("rule", RULES)
def test_statistics_are_those_of_the_inputs_value_by_value(rule):
    net, images = deep(), batches()
    before = copy.deepcopy(net.state_dict())
    found = input_statistics(net, images, rule)
    assert list(found) == ["1", "3", "7"]
    with torch.no_grad():
        for name, (mean, variance) in found.items():
            inputs = [net[: int(name)](part) for part in images]
            wanted = expected(inputs, rule)
            np.testing.assert_allclose(mean, wanted[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(variance, wanted[1], rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())
    net[1].train()
    again = input_statistics(net, images, rule)
    assert all(torch.equal(a, b) for name in found for a, b in zip(found[name], again[name], strict=True))
    assert [module.training for module in net.children()] == [place == 1 for place in range(len(net))]


def test_the_total_variance_is_that_of_everything_at_once():
    parts = batches((8, 5, 1))
    everything = moments(torch.cat(parts))
    found = merged(merged(moments(parts[0]), moments(parts[1])), moments(parts[2]))
    assert found.size == everything.size == 14 * 64
    torch.testing.assert_close(found.mean, everything.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        unbiased(found), torch.cat(parts).double().var(dim=(0, 2, 3)), rtol=1e-6, atol=0
    )


def test_the_official_rule_loses_what_lies_between_batches():
    parts = [draw(8, 3, 4, 4, seed=i) + 5 * i for i in range(3)]
    found = input_statistics(nn.Sequential(nn.BatchNorm2d(3)).eval(), parts, "official")["0"]
    between = torch.stack([part.mean(dim=(0, 2, 3)) for part in parts]).double().var(dim=0, correction=0)
    everything = torch.cat(parts).double()
    torch.testing.assert_close(found.mean, everything.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(found.variance + between, everything.var(dim=(0, 2, 3)), rtol=0.01, atol=0)
    assert (found.variance < 0.1 * between).all()


def test_a_large_mean_costs_no_digits():
    parts = [draw(16, 2, 4, 4, seed=i) * 0.01 + 1000 for i in range(5)]
    found = input_statistics(nn.Sequential(nn.BatchNorm2d(2)).eval(), parts, "total_variance")["0"]
    wanted = torch.cat(parts).double().var(dim=(0, 2, 3))
    torch.testing.assert_close(found.variance, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_the_eval_mode_function_stays_the_same(rule):
    net, images = deep(), batches()
    with torch.no_grad():
        before = net(images[1])
        convert_batch_norms(net, images, rule)
        after = net(images[1])
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    assert (net[1].running_mean - deep()[1].running_mean).abs().max() > 0.1


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(4), (6, 4)),
        (nn.BatchNorm1d(4), (6, 4, 5)),
        (nn.BatchNorm2d(4, eps=0.1), (6, 4, 3, 3)),
        (nn.BatchNorm3d(4), (6, 4, 2, 2, 2)),
        (nn.SyncBatchNorm(4), (6, 4, 3, 3)),
        (BatchNormAct2d(4, act_layer=nn.SiLU), (6, 4, 3, 3)),
    ],
    ids=["1d_rows", "1d", "2d_large_eps", "3d", "sync", "with_activation"],
)
def test_every_kind_of_batch_norm(norm, shape):
    net = nn.Sequential(unsettled(copy.deepcopy(norm))).eval()
    images = [draw(*shape, seed=i) * 2 + 1 for i in range(3)]
    gamma, beta = net[0].weight.clone(), net[0].bias.clone()
    mu, var, eps = net[0].running_mean.clone(), net[0].running_var.clone(), net[0].eps
    with torch.no_grad():
        before = net(images[0])
        convert_batch_norms(net, images, "total_variance")
        torch.testing.assert_close(net(images[0]), before, rtol=0, atol=1e-4)
    mean, variance = (torch.from_numpy(part).float() for part in expected(images, "total_variance"))
    torch.testing.assert_close(net[0].running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[0].running_var, variance, rtol=1e-5, atol=0)
    torch.testing.assert_close(net[0].bias, beta + (mean - mu) * gamma / (var + eps).sqrt())
    torch.testing.assert_close(net[0].weight, gamma * ((variance + eps) / (var + eps)).sqrt())


@pytest.mark.parametrize("rule", RULES)
def test_one_value_a_channel_and_dead_channels_stay_finite(rule):
    net = nn.Sequential(unsettled(nn.BatchNorm2d(3))).eval()
    lone = draw(1, 3, 1, 1)
    with torch.no_grad():
        before = net(lone)
        convert_batch_norms(net, [lone], rule)
        assert all(value.isfinite().all() for value in net.state_dict().values())
        torch.testing.assert_close(net(lone), before, rtol=0, atol=1e-4)
    net = nn.Sequential(unsettled(nn.BatchNorm2d(3))).eval()
    parts = [draw(4, 3, 2, 2, seed=i) * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1) for i in range(2)]
    parts.append(draw(1, 3, 1, 1, seed=5) * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1))
    with torch.no_grad():
        before = net(parts[0])
        convert_batch_norms(net, parts, rule)
        torch.testing.assert_close(net(parts[0]), before, rtol=0, atol=1e-4)
    assert net[0].running_var[1] == 0
    np.testing.assert_allclose(net[0].running_var, expected(parts, rule)[1], rtol=1e-5)


def test_momentum_eps_and_the_count_of_batches_stay():
    norm = unsettled(nn.BatchNorm2d(3, eps=0.02, momentum=0.3))
    norm.num_batches_tracked.fill_(7)
    norm.weight.requires_grad_(False)
    pointer = norm.weight.data_ptr()
    convert(norm, Statistics(torch.ones(3).double(), torch.ones(3).double()))
    assert (norm.eps, norm.momentum, int(norm.num_batches_tracked)) == (0.02, 0.3, 7)
    assert norm.weight.data_ptr() == pointer
    assert not norm.weight.requires_grad
    assert norm.bias.requires_grad
    assert norm.bias.grad is None


def test_layers_that_cannot_be_converted_or_are_not_reached_stay_as_they_are():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.fixed = unsettled(nn.BatchNorm2d(3)), nn.BatchNorm2d(3, affine=False)
            self.batchwise = nn.BatchNorm2d(3, track_running_stats=False)
            self.instance, self.split = (
                nn.InstanceNorm2d(3, track_running_stats=True),
                SplitBatchNorm2d(3, num_splits=2),
            )
            self.unused = unsettled(nn.BatchNorm2d(3))

        def forward(self, images):
            return self.split(self.instance(self.batchwise(self.fixed(self.plain(images)))))

    net = Net().eval()
    before = copy.deepcopy(net.state_dict())
    assert list(convertible(net)) == ["plain", "split", "split.aux_bn.0", "unused"]
    images = batches()
    with torch.no_grad():
        output = net(images[0])
        convert_batch_norms(net, images, "total_variance")
        torch.testing.assert_close(net(images[0]), output, rtol=0, atol=1e-4)
    changed = {
        name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"plain", "split"}
    assert torch.equal(net.split.aux_bn[0].running_mean, torch.zeros(3))


def test_channels_last_gives_the_same():
    nets = [deep(), deep().to(memory_format=torch.channels_last)]
    for net in nets:
        convert_batch_norms(
            net, [part.to(memory_format=torch.channels_last) for part in batches()], "official"
        )
    for one, other in zip(*(net.state_dict().values() for net in nets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_hooks_go_even_when_the_network_fails():
    net = deep()
    with pytest.raises(RuntimeError):
        input_statistics(net, [torch.zeros(2, 5, 8, 8)], "official")
    assert not any(module._forward_pre_hooks for module in net.modules())
