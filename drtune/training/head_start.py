"""A head to start from: the linear classifier of the pretrained features, solved instead of trained.

Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022:
a random head sends large, wrong gradients into a good encoder; the head of a linear probe does not.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy

from drtune.banks.bank import FeatureBank
from drtune.base.seeding import generator

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Values of C that are tried, for features of mean squared length 1."""
MOST_ROWS = 20_000
"""Images that the head is solved on, at most; more would change little and take minutes."""
ITERATIONS = 1000
TOLERANCE = 1e-6
"""On the largest entry of the gradient of the mean loss, which is 1e-3 to 1e-1 for a head of zeros: the
solution of the strength before met scikit-learn's 1e-4 at once, up to a third away from the optimum."""

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class SolvedHead:
    """Multinomial logistic regression, as weights of a linear layer.

    Attributes:
        weight: [C, D] float32.
        bias: [C] float32.
        strength: the inverse regularisation C that validation chose.
        train_loss: mean cross entropy of the rows it was solved on, at its scale.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    train_loss: float


def bank_rows(bank: FeatureBank, seed: int) -> tuple[Tensor, Tensor]:
    """Features [n, D] and labels [n] of one view of each image, at most `MOST_ROWS` drawn by `seed`."""
    random = generator(seed, "head", "rows")
    index = torch.arange(bank.num_rows)
    if bank.num_rows > MOST_ROWS:
        index = torch.randperm(bank.num_rows, generator=random)[:MOST_ROWS].sort().values
    view = torch.randint(bank.views, (len(index),), generator=random)
    return bank.rows(view, index), bank.labels[index]


def solve_head(
    features: Tensor,
    labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    classes: int,
    scale: float = 1.0,
) -> SolvedHead:
    """Solve the head for each of `STRENGTHS` and keep the one with the lowest loss on validation.

    Features are centred and divided by their root mean square length, one number for all dimensions, so that
    the strengths mean the same for every backbone; both are folded back into the weights.

    Args:
        features: [N, D] pretrained features of training images.
        labels: [N] int64.
        val_features: [M, D] pretrained features of validation images.
        val_labels: [M] int64.
        classes: C. A class without a row gets weight 0 and the lowest bias found.
        scale: what weights and biases are multiplied by in the end. It moves no prediction, only how sure the
            head is of it: below 1 it leaves the encoder more to learn.
    """
    centre = features.double().mean(dim=0)
    centred = features.double() - centre
    length = float(centred.norm(dim=1).square().mean().sqrt()) or 1.0
    X, V = centred / length, (val_features.double() - centre) / length
    solver = LogisticRegression(max_iter=ITERATIONS, tol=TOLERANCE, warm_start=True)
    tried = []
    for strength in STRENGTHS:
        weight, bias = solved(solver.set_params(C=strength), X.numpy(), labels, classes)
        tried.append((float(cross_entropy(V @ weight.T + bias, val_labels)), strength, weight, bias))
    _, strength, weight, bias = min(tried, key=lambda trial: trial[0])
    weight, bias = scale * weight, scale * bias
    train_loss = float(cross_entropy(X @ weight.T + bias, labels))
    weight = weight / length
    return SolvedHead(weight.float(), (bias - weight @ centre).float(), strength, train_loss)


def solved(solver: LogisticRegression, X: Rows, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weights [C, D] and biases [C], float64, of one logistic regression."""
    present = torch.from_numpy(np.unique(labels.numpy()))
    weight = torch.zeros(classes, X.shape[1], dtype=torch.float64)
    bias = torch.zeros(classes, dtype=torch.float64)
    if len(present) < 2:
        return weight, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits do not matter to a start
        solver.fit(X, labels.numpy())
    coefficients, intercepts = torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_)
    if len(present) == 2:  # one row for the second class against the first
        coefficients = torch.cat([-coefficients, coefficients]) / 2
        intercepts = torch.cat([-intercepts, intercepts]) / 2
    weight[present] = coefficients
    bias.fill_(float(intercepts.min()))
    bias[present] = intercepts
    return weight, bias
