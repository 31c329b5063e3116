"""Pure functions of tensors from which methods build their objectives."""

from typing import Literal

from torch import Tensor


def regularized(
    objective: Tensor, regularizer: Tensor, weight: float, scale: Literal["sum", "mean"]
) -> tuple[Tensor, Tensor]:
    """Weigh a regulariser against the objective it is added to.

    Args:
        objective: scalar L.
        regularizer: scalar R.
        weight: lambda >= 0.
        scale: `sum`, L + lambda R (DR-Tune, Eq. 14); `mean`, (L + lambda R) / (1 + lambda), which for
            lambda = K/B is the mean over B + K rows of the official code (worker.py:131 at ef9a7b1).

    Returns:
        The two scalars whose sum is minimised.
    """
    total = 1 + weight if scale == "mean" else 1.0
    return objective / total, regularizer * (weight / total)
