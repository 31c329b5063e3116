"""Fisher information of a classifier: how much each weight matters to what it says.

    F_jj = (1/m) sum_i sum_k f_k(x_i) ( d log f_k(x_i) / d w_j )²

The expectation is over the model's own predictive distribution f, all C classes of it; labels play no part.
Li, Grandvalet, Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML
2018 (arXiv 1802.01483). Letters: m images, C classes, P numbers in the parameters asked for.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from drtune.backbones.classifier import Classifier, eval_mode
from drtune.base.errors import DataError

NUMBERS_AT_ONCE = 2**27
"""Gradient entries held at a time on an accelerator: 0.5 GiB, and as much again while they are squared."""


def fisher_diagonal(
    model: Classifier, parameters: Sequence[Tensor], images: Iterable[Tensor], at_once: int | None = None
) -> Tensor:
    """Exact diagonal of the Fisher information: one squared gradient an image and class.

    The model is asked in eval mode and float32, whatever precision it trains in; its flags and gradients stay
    as they were. The cost is m forward and m C backward passes over one image.

    Args:
        model: what it says now is the predictive distribution.
        parameters: of the model; those that do not reach the scores get 0.
        images: each [3, H, W], on the model's device.
        at_once: classes in one backward pass; the result does not depend on it. None: 1 on a CPU, where more
            is no faster, else as many as `NUMBERS_AT_ONCE` allows.

    Returns:
        [P] float32, the parameters flattened and joined in their order.

    Raises:
        DataError: no image.
    """
    size = sum(parameter.numel() for parameter in parameters)
    device = model.head.weight.device
    if at_once is None:
        at_once = 1 if device.type == "cpu" else max(NUMBERS_AT_ONCE // size, 1)
    total, count = torch.zeros(size, device=device), 0
    with eval_mode(model):
        for image in images:
            log_f = model.head(model.encoder(image[None])).log_softmax(dim=1)[0]
            f, classes = log_f.detach().exp(), torch.eye(len(log_f), device=device)
            for weights, rows in zip(torch.split(f, at_once), torch.split(classes, at_once), strict=True):
                total += weights @ gradients(log_f, parameters, rows).square()
            count += 1
    if count == 0:
        raise DataError("the Fisher information needs images, and there is none; expected at least 1")
    return total / count


def gradients(outputs: Tensor, parameters: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Gradients [n, P] of n weighted sums of `outputs` [C], the weights being `rows` [n, C].

    They are taken in one vectorised pass; a layer that cannot be vectorised sends them through one by one.
    """

    def gradient(weights: Tensor, batched: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            outputs,
            parameters,
            weights,
            retain_graph=True,
            is_grads_batched=batched,
            allow_unused=True,
            materialize_grads=True,
        )

    if len(rows) > 1:
        try:
            return torch.cat([part.flatten(1) for part in gradient(rows, True)], dim=1)
        except RuntimeError:  # as vmap says of values that it cannot know, and of memory that it has not got
            pass
    return torch.stack([torch.cat([part.flatten() for part in gradient(row, False)]) for row in rows])
