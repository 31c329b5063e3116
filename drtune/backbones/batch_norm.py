"""Batch norm conversion: the statistics of other data, in a network that computes what it did before.

For a layer y = gamma (x - mu) / sqrt(var + eps) + beta and target statistics mu', var' of its input:

    beta'  = beta + (mu' - mu) gamma / sqrt(var + eps)
    gamma' = gamma sqrt(var' + eps) / sqrt(var + eps)

and the running statistics become mu', var'. In eval mode the layer is the same function as before; in train
mode, where a batch of the target data is normalised by its own statistics, it now stays close to it.

Ha, Jeong, Lee, "Domain-Aware Fine-Tuning", AAAI 2024; official code hsh1108/DAFT utils/transfer.py:11-60 at
7e53240. Letters: B samples of a batch, C channels.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from drtune.backbones.classifier import eval_mode

Rule = Literal["total_variance", "official"]


class Moments(NamedTuple):
    """Moments of each channel.

    Attributes:
        size: values a channel, n.
        mean: [C] float64.
        scatter: [C] float64, sum of the squared deviations from the mean.
    """

    size: int
    mean: Tensor
    scatter: Tensor


class Statistics(NamedTuple):
    """What a layer normalises by.

    Attributes:
        mean: [C] float64.
        variance: [C] float64, unbiased (divided by n - 1), as PyTorch keeps its running variance.
    """

    mean: Tensor
    variance: Tensor


def moments(values: Tensor) -> Moments:
    """Moments of [B, C] or [B, C, ...] over all axes but the second; float32 within, float64 between batches.

    The sum over B images is PyTorch's own, which follows the mean as it goes (Welford), so that no digits are
    lost where the mean is large and the variance small.
    """
    axes = [axis for axis in range(values.ndim) if axis != 1]
    variance, mean = torch.var_mean(values.float(), dim=axes, correction=0)
    size = values.numel() // values.shape[1]
    return Moments(size, mean.double(), variance.double() * size)


def merged(a: Moments, b: Moments) -> Moments:
    """Moments of two sets taken as one: the law of total variance (Chan, Golub, LeVeque 1979, Eq. 2.1)."""
    size = a.size + b.size
    apart = b.mean - a.mean
    mean = a.mean + apart * (b.size / size)
    scatter = a.scatter + b.scatter + apart.square() * (a.size * b.size / size)
    return Moments(size, mean, scatter)


def unbiased(found: Moments) -> Tensor:
    """[C] variance, divided by n - 1; 0 for a single value."""
    return found.scatter / max(found.size - 1, 1)


class TotalVariance:
    """Mean and variance of all values of all batches."""

    def __init__(self) -> None:
        self.total: Moments | None = None

    def add(self, batch: Moments) -> None:
        """Take a batch in."""
        self.total = batch if self.total is None else merged(self.total, batch)

    def result(self) -> Statistics | None:
        """The statistics; None where nothing was added."""
        return None if self.total is None else Statistics(self.total.mean, unbiased(self.total))


class BatchAverage:
    """Plain averages over batches of their means and of their unbiased variances, as in the official code.

    The variance between batches is lost, and a short batch counts like a full one. A batch of one value a
    channel has no variance and is left out of that average, where the official code would give NaN.
    """

    def __init__(self) -> None:
        self.means: Tensor | None = None
        self.variances: Tensor | None = None
        self.batches, self.with_variance = 0, 0

    def add(self, batch: Moments) -> None:
        """Take a batch in."""
        self.means = batch.mean if self.means is None else self.means + batch.mean
        self.batches += 1
        if batch.size > 1:
            self.variances = unbiased(batch) if self.variances is None else self.variances + unbiased(batch)
            self.with_variance += 1

    def result(self) -> Statistics | None:
        """The statistics; None where nothing was added."""
        if self.means is None:
            return None
        variance = torch.zeros_like(self.means) if self.variances is None else self.variances
        return Statistics(self.means / self.batches, variance / max(self.with_variance, 1))


def convertible(network: nn.Module) -> dict[str, _BatchNorm]:
    """Batch norms of every kind by name, timm's with a built-in activation among them.

    Left out are layers without running statistics, which normalise by the batch in eval mode, too, and layers
    without weight and bias, which cannot take up the difference: adding them would change the architecture.
    """
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        and all(part is not None for part in (module.running_mean, module.weight, module.bias))
    }


@torch.no_grad()
def input_statistics(network: nn.Module, images: Iterable[Tensor], rule: Rule) -> dict[str, Statistics]:
    """Statistics of what reaches each convertible batch norm, in one pass.

    Args:
        network: run in eval mode, so that every layer sees the unconverted network's activations.
        images: batches [B, 3, H, W] on the network's device.
        rule: `total_variance` of all values; `official`, averages over batches (see `BatchAverage`).

    Returns:
        By layer name; a layer that no batch reached is absent.
    """
    kind = TotalVariance if rule == "total_variance" else BatchAverage
    found = {name: kind() for name in convertible(network)}

    def watch(seen: TotalVariance | BatchAverage) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: seen.add(moments(inputs[0]))

    handles = [norm.register_forward_pre_hook(watch(found[n])) for n, norm in convertible(network).items()]
    try:
        with eval_mode(network):
            for batch in images:
                network(batch)
    finally:
        for handle in handles:
            handle.remove()
    results = {name: seen.result() for name, seen in found.items()}
    return {name: result for name, result in results.items() if result is not None}


@torch.no_grad()
def convert(norm: _BatchNorm, target: Statistics) -> None:
    """Give a layer the target statistics and keep its eval-mode function; in float64, rounded once.

    Weight, bias, running mean and running variance change in place; momentum, eps and the count of batches
    stay. A channel of zero variance keeps its function as well: eps stands in for the variance.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gamma, beta = norm.weight.double(), norm.bias.double()
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.copy_(beta + (target.mean - norm.running_mean.double()) * gamma / deviation)
    norm.weight.copy_(gamma * (target.variance + norm.eps).sqrt() / deviation)
    norm.running_mean.copy_(target.mean)
    norm.running_var.copy_(target.variance)


def convert_batch_norms(network: nn.Module, images: Iterable[Tensor], rule: Rule) -> None:
    """Convert every convertible batch norm that the images reach; arguments as of `input_statistics`.

    A network without any is left as it is, and no image is read.
    """
    norms = convertible(network)
    found = input_statistics(network, images, rule) if norms else {}
    for name, target in found.items():
        convert(norms[name], target)
