"""Pure functions of tensors from which methods build their objectives."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize


@contextmanager
def float32_maths(device: torch.device) -> Iterator[None]:
    """Switch autocast off, and reduced-precision (TF32) matrix products too, for the length of a block."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def unit_rows(rows: Tensor) -> Tensor:
    """Scale rows [K, D] to unit length; rows of zeros stay zero."""
    unit: Tensor = normalize(rows.float(), dim=1)
    return unit


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
