"""Hard pairs and mixed features of Core-tuning: pure functions of tensors."""

from typing import NamedTuple

import torch
from torch import Tensor

from drtune.training.losses import not_self, similarities, unit_rows

LEAST_SHARE = 0.8
"""Of the partner in a hard negative, Core-tuning.py:171-184 of Vanint/Core-tuning at f70e1bf."""


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
