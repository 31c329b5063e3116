"""The SP family: the encoder is held near its starting point instead of near zero.

    L = L_CE + alpha Omega(w - w0) + (beta/2) ||head||²
    l2_sp, l2_sp_fisher   Omega(d) = 1/2 sum_j F_j d_j²
    l1_sp                 Omega(d) = sum_j |d_j|
    gl_sp, gl_sp_fisher   Omega(d) = sum_g s_g ( sum_{j in g} F_j d_j² )^(1/2),  s_g = sqrt(p_g)

w0 is the encoder's start, g an output channel's fan-in of p_g weights, F the diagonal of the Fisher
information (`fisher.py`), 1 without `_fisher`. Li, Grandvalet, Davoine, "Explicit Inductive Bias for
Transfer Learning with Convolutional Networks", ICML 2018 (arXiv 1802.01483); official code
holyseven/TransferLearningClassification, model/network_base.py:138-447 at 1426356.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from drtune.backbones.classifier import Classifier, unwrapped
from drtune.banks.bank import FeatureBank
from drtune.data.batch import Batch
from drtune.methods.sp.fisher import fisher_diagonal
from drtune.methods.sp.settings import SPSettings
from drtune.training.contract import Loss, Method


class SP(Method):
    """Cross entropy, the penalty on the way gone from the start, and L2 on the new head.

    `l1_sp`, `gl_sp` and `gl_sp_fisher` are smoothed, not proximal: weights come near w0 but not onto it. The
    paper's F is of the source data under the source head; neither is at hand after pretraining, so F is that
    of the model at its start (its head solved on the bank where `train.head_init` is `bank`) on images of the
    first epoch.
    """

    settings: SPSettings
    start: Tensor
    importance: Tensor | None

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Keep w0 and, for the penalties weighted by it, F of at most `fisher_samples` images."""
        use, classifier = self.settings, unwrapped(model)
        weights = penalised(classifier.encoder, use.parameters)
        self.shapes = [groups_of(weight) for weight in weights]
        self.register_buffer("start", joined(weights).detach(), persistent=False)
        self.register_buffer("importance", None)
        if use.penalty.endswith("fisher"):
            images = islice((image for batch in batches for image in batch.images), use.fisher_samples)
            self.importance = fisher_diagonal(classifier, weights, images) + use.fisher_eps

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross entropy of the batch and the penalties of the weights as they are, in float32."""
        use, classifier = self.settings, unwrapped(model)
        terms = {
            "cross_entropy": self.cross_entropy(model(batch.images).logits, batch.labels),
            "start": self.way(classifier),
            "head": use.factor * squared(joined(penalised(classifier.head, use.parameters))),
        }
        return Loss(terms, {"start": use.alpha, "head": use.beta})

    def way(self, model: Classifier) -> Tensor:
        """Omega of the way that the encoder has gone from its start."""
        use = self.settings
        difference = joined(penalised(model.encoder, use.parameters)) - self.start
        if use.penalty == "l1_sp":
            return absolute(difference, use.smoothing)
        if use.penalty.startswith("gl"):
            return grouped(difference, self.shapes, use.smoothing, self.importance)
        return use.factor * squared(difference, self.importance)


def penalised(module: nn.Module, which: str) -> list[nn.Parameter]:
    """All parameters, or `weights_only`: kernels and matrices, which the official code calls `weights`."""
    named = module.named_parameters()
    return [p for name, p in named if which == "all" or (name.endswith("weight") and p.ndim > 1)]


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers as one vector [P]."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def groups_of(weight: Tensor) -> tuple[int, int]:
    """(groups, p_g): one group an output channel, the first dimension; each number of a vector is one."""
    return (weight.shape[0], weight.shape[1:].numel()) if weight.ndim > 0 else (1, 1)


def squared(difference: Tensor, importance: Tensor | None = None) -> Tensor:
    """sum_j F_j d_j² of a difference [P]; F [P] is 1 where it is None."""
    return (difference.square() if importance is None else importance * difference.square()).sum()


def absolute(difference: Tensor, smoothing: float) -> Tensor:
    """sum_j sqrt(d_j² + eps) - sqrt(eps): |d_j|, smooth at 0, where value and gradient are exactly 0."""
    return rooted(difference.square(), smoothing).sum()


def grouped(
    difference: Tensor, shapes: Sequence[tuple[int, int]], smoothing: float, importance: Tensor | None = None
) -> Tensor:
    """sum_g s_g ( sqrt( sum_{j in g} F_j d_j² + eps ) - sqrt(eps) ), s_g = sqrt(p_g).

    The groups of d [P] and F [P] follow one another; `shapes` holds (groups, p_g) of each stretch of them.
    """
    squares = difference.square() if importance is None else importance * difference.square()
    parts = torch.split(squares, [groups * size for groups, size in shapes])
    sums = torch.cat([part.view(shape).sum(dim=1) for part, shape in zip(parts, shapes, strict=True)])
    scales = torch.cat([sums.new_full((groups,), size**0.5) for groups, size in shapes])
    return (scales * rooted(sums, smoothing)).sum()


def rooted(squares: Tensor, smoothing: float) -> Tensor:
    """sqrt(x + eps) - sqrt(eps), elementwise; the official code keeps the constant, which trains nothing."""
    return (squares + smoothing).sqrt() - squares.new_full((), smoothing).sqrt()
