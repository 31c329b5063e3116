"""Pure functions of tensors from which methods build their objectives."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from drtune.calibration import float32_maths, unit_rows

LEAST_SHARE = 0.8
"""Of the partner in a hard negative, Core-tuning.py:171-184 of Vanint/Core-tuning at f70e1bf."""


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


def similarities(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """s_ij = q_i . k_j / tau, in float32 whatever the autocast.

    Args:
        queries: [n, D], mostly of unit length.
        keys: [m, D].
        temperature: tau > 0.

    Returns:
        [n, m] float32.
    """
    with float32_maths(queries.device):
        return queries.float() @ keys.float().mT / temperature


def not_self(rows: int, device: torch.device) -> Tensor:
    """[n, n] mask of all pairs but (i, i): the candidates A(i) where a batch is compared with itself."""
    return ~torch.eye(rows, dtype=torch.bool, device=device)


def supervised_contrast(
    scores: Tensor,
    positives: Tensor,
    candidates: Tensor,
    *,
    focal: bool,
    divide_by: Literal["positives", "columns"],
    average_over: Literal["all", "with_positives"],
) -> Tensor:
    """Every anchor i tells its positives P(i) from all its candidates A(i).

        log p_ij = s_ij - log sum_{k in A(i)} exp s_ik
        l_i      = -(1/c_i) sum_{j in P(i)} w_ij log p_ij
        L        = (1/N) sum_i l_i

    An anchor without positives adds nothing; `average_over` says whether it counts in N. Without any
    positive L is 0, with a gradient of zeros.

    Args:
        scores: s, [n, m] similarities over a temperature; made float32 here.
        positives: P, [n, m] mask, within `candidates`.
        candidates: A, [n, m] mask. A row may be empty.
        focal: w_ij = 1 - p_ij, with a gradient through it (Core-tuning.py:208-273 of Vanint/Core-tuning at
            f70e1bf); else w_ij = 1: L_out^sup of Khosla et al., "Supervised Contrastive Learning", NeurIPS
            2020, Eq. 2.
        divide_by: c_i is |P(i)|, or m as in that official code (:262).
        average_over: N is n, or the number of anchors with positives as in that code.

    Returns:
        Scalar float32.
    """
    scores = scores.float()
    ignored = ~candidates & candidates.any(dim=1, keepdim=True)  # an empty row stays finite, and unused
    normalizer = scores.masked_fill(ignored, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_p = (scores - normalizer).masked_fill(~positives, 0.0)
    weighted = -torch.expm1(log_p) * log_p if focal else log_p
    number = positives.sum(dim=1)
    count = number.clamp_min(1) if divide_by == "positives" else scores.shape[1]
    anchors = (number > 0).sum().clamp_min(1) if average_over == "with_positives" else len(scores)
    return -(weighted.sum(dim=1) / count).sum() / anchors


class Mixing(NamedTuple):
    """Which rows of a batch are mixed into 3B rows: originals, hard negatives, hard positives.

    Attributes:
        first: [3B] row of the batch.
        second: [3B] row of the batch.
        share: [3B] float32 share of `first`; `second` has the rest.
    """

    first: Tensor
    second: Tensor
    share: Tensor


@torch.no_grad()
def hard_pairs(features: Tensor, labels: Tensor, official: bool) -> tuple[Tensor, Tensor]:
    """For each anchor the least similar row of its class and the most similar of another, by cosine.

    Where there is none, the anchor itself. `official` repeats Core-tuning.py:186-193, which takes the least
    of (cosine x mask), and the anchor where that is row 0: where features are >= 0 the least is the first row
    that is no positive.

    Args:
        features: [B, D].
        labels: [B].

    Returns:
        hp [B] and hn [B], rows of the batch.
    """
    units, own = unit_rows(features), torch.arange(len(labels), device=labels.device)
    cosine, same = similarities(units, units, 1.0), labels[:, None] == labels
    positive = same & not_self(len(labels), labels.device)
    if official:
        hp = (cosine * positive).argmin(dim=1)
        hp = torch.where(hp == 0, own, hp)
    else:
        hp = cosine.masked_fill(~positive, torch.inf).argmin(dim=1)
        hp = torch.where(positive.any(dim=1), hp, own)
    hn = cosine.masked_fill(same, -torch.inf).argmax(dim=1)
    return hp, torch.where(same.all(dim=1), own, hn)


def mixing(hp: Tensor, hn: Tensor, order: Tensor, lam_negative: Tensor, lam_positive: Tensor) -> Mixing:
    """The 3B rows, for given random choices.

    Args:
        hp: [B] hard positives.
        hn: [B] hard negatives.
        order: pi, [B] permutation.
        lam_negative: [B] in [0, 1], raised to `LEAST_SHARE` here.
        lam_positive: [B] in [0, 1].
    """
    own, shares = torch.arange(len(order), device=order.device), (lam_negative.float(), lam_positive.float())
    share = torch.cat([torch.ones_like(shares[0]), shares[0].clamp_min(LEAST_SHARE), shares[1]])
    return Mixing(torch.cat([own, order, hp]), torch.cat([own, own, hn]), share)


def mix(rows: Tensor, mixed: Mixing) -> Tensor:
    """Mix features [B, D] or one-hot labels [B, C]; [3B, ...] float32."""
    share = mixed.share[:, None]
    return share * rows[mixed.first] + (1 - share) * rows[mixed.second]


def same_labels(labels: Tensor, mixed: Mixing, num_classes: int) -> Tensor:
    """[3B, 3B] mask of rows whose mixed labels are equal: the same classes with the same shares.

    The official hash y . (10^0, ..., 10^(C-1)) says the same as long as it does not overflow (C < 20).
    """
    first, second, share = labels[mixed.first], labels[mixed.second], mixed.share
    share = torch.where(first > second, 1 - share, share)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    low, high = torch.where(share == 0, high, low), torch.where(share == 1, low, high)
    share = torch.where(low == high, torch.ones_like(share), share)
    pair = low * num_classes + high
    return (pair[:, None] == pair) & (share[:, None] == share)
