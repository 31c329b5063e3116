"""Semantic calibration of DR-Tune: pure functions of tensors, numbered as in the paper.

Source: Zhou, Chen, Huang, "DR-Tune", ICCV 2023 (arXiv 2308.12058), Eq. 7-13; official code weeknan/DR-Tune
model.py:58-117 at ef9a7b1.

Shapes: K bank rows, D features, C classes. Everything is float32, whatever the autocast; nothing loops over
classes or waits for the device. All inputs are constants of the objective: no gradient flows through here.

The rotation is applied where it is cheap. With R orthogonal, Eq. 12 is

    R v_k + delta_{y_k}  =  R (v_k + s_{y_k}),    s_c = R^T mu_c^d - mean of class c in the pretrained bank,

so `translate` returns the rows v_k + s_{y_k}, and `scores` gives the head's prototypes to R instead: 4CD²
operations a step instead of 2KD². `rows @ R.T` are the rows of Eq. 12 themselves.
"""

from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from drtune.training.losses import float32_maths

SILENT = 1e-6
"""Singular values up to this share of the largest are rounding (some ten units of float32): no data there."""
LOWEST = 1e-14
"""Singular values from here to 1 reach 1 in `polar_by_products`. S + `SILENT` I goes down to the square of
`SILENT`: S = u v^T with u and v at a right angle."""
LEAST = -1e30
"""Stands for minus infinity, of which a class without rows would make NaN."""
SQUARINGS = 9
"""H^-512: of two eigenvalues one percent apart, the lower one's vector is then 160 times the stronger."""
LARGEST_SCALE = 1.6977
"""Bound on the scaling of a Newton-Schulz step, so that a singular value of 1 stays positive: Chen and Chow,
"A stable scaling of Newton-Schulz for improving the sign function computation", 2014."""


@torch.no_grad()
def procrustes(pretrained: Tensor, downstream: Tensor, *, proper: bool, center: bool) -> Tensor:
    """Eq. 7: the orthogonal R that minimises sum_k ||R v_k^p - v_k^d||², within 1e-4 of the optimum.

    Where the data leave R open (K < D, dead channels, duplicate rows), R is the optimum nearest to the
    identity, so that rows which enter the bank later are not scrambled. If 2K < D, the work is done in the 2K
    dimensions that the rows span, and R is the identity outside.

    Args:
        pretrained: [K, D] rows v^p.
        downstream: [K, D] rows v^d of the same images.
        proper: force det R = +1 (the official code), instead of allowing a reflection (Eq. 7 as written).
        center: remove both means first (the official code). R is still meant for rows that are not centred.

    Returns:
        R, [D, D] float32, for column vectors: rows are rotated by `rows @ R.T`.
    """
    with float32_maths(pretrained.device):
        P, Q = pretrained.float(), downstream.float()
        if center:
            P, Q = P - P.mean(dim=0), Q - Q.mean(dim=0)
        K, D = P.shape
        if 2 * K >= D:
            return nearest_orthogonal(Q.mT @ P, proper)
        J = torch.linalg.qr(torch.cat([P, Q]).mT).Q  # [D, 2K], spans all rows
        turn = nearest_orthogonal((Q @ J).mT @ (P @ J), proper) - torch.eye(2 * K, device=P.device)
        return torch.eye(D, device=P.device) + J @ turn @ J.mT  # type: ignore[no-any-return]


def nearest_orthogonal(S: Tensor, proper: bool) -> Tensor:
    """The orthogonal W that maximises trace(W^T S) for S [n, n], float32; nearest to I where S is silent.

    By SVD on the CPU, by matrix products elsewhere: there an SVD is slow and waits for the device. For
    n = 192, 1280, 2048 on one core: SVD 8, 909, 3918 ms; Newton-Schulz steps take about three times that.
    """
    if S.device.type == "cpu":
        # LAPACK gives up on values that are not finite, and on rare matrices of finite ones it raises or
        # says NaN. Then the products serve; what is not finite goes on to the loss, and the loop explains it.
        with suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            W = polar_by_svd(S, 1.0 if proper else None)
            if W.isfinite().all():
                return W
    return nearest_by_products(S, proper)


def nearest_by_products(S: Tensor, proper: bool) -> Tensor:
    """`nearest_orthogonal` without an SVD and without waiting for the device."""
    tiny = torch.finfo(S.dtype).tiny
    S = S / S.abs().amax().clamp_min(tiny)
    S = S / torch.linalg.matrix_norm(S).clamp_min(tiny)
    S = S + SILENT * torch.eye(len(S), device=S.device)
    W = polar_by_products(S)
    return without_reflection(W, S) if proper else W


def polar_by_svd(S: Tensor, determinant: float | None) -> Tensor:
    """U V^T of S = U diag(sigma) V^T; where sigma is zero, the map between the null spaces nearest to I.

    Args:
        S: [n, n], CPU.
        determinant: +1 or -1 turns the weakest direction round if need be; None takes what comes.
    """
    U, sigma, Vh = torch.linalg.svd(S)
    W = U @ Vh
    if determinant is not None:
        determinant = determinant * float(torch.linalg.slogdet(W)[0])  # det underflows from n = 400 on
    silent = int((sigma <= SILENT * sigma[0]).sum())
    if silent:
        loud = len(S) - silent
        between = polar_by_svd(U[:, loud:].mT @ Vh[loud:].mT, determinant)
        U = torch.cat([U[:, :loud], U[:, loud:] @ between], dim=1)
    elif determinant is not None and determinant < 0:
        U = torch.cat([U[:, :-1], -U[:, -1:]], dim=1)
    else:
        return W  # type: ignore[no-any-return]
    return U @ Vh  # type: ignore[no-any-return]


def polar_by_products(S: Tensor) -> Tensor:
    """U V^T of S by scaled Newton-Schulz steps X <- 1.5 r X - 0.5 r³ X X^T X; needs ||S||_2 <= 1 (nearly).

    The scale r of each step follows from a lower bound on the singular values, which starts at `LOWEST`.
    """
    X, low = S, LOWEST
    while low < 1 - 1e-6:
        r = min((3 / (1 + low + low**2)) ** 0.5, LARGEST_SCALE)
        X = 1.5 * r * X - 0.5 * r**3 * (X @ (X.mT @ X))
        low = min(1.5 * r * x - 0.5 * (r * x) ** 3 for x in (low, 1.0))
    return X


def without_reflection(W: Tensor, S: Tensor) -> Tensor:
    """Turn round the direction of W that adds least to trace(W^T S), where det W is -1.

    That direction is the lowest eigenvector of the symmetric H = W^T S: what a high power of its inverse
    makes of any vector. The power is squared up, because the eigenvalues of real features lie close together.
    """
    eye = torch.eye(len(S), device=S.device)
    H = W.mT @ S
    L = torch.linalg.cholesky_ex((H + H.mT) / 2 + SILENT * eye)[0]
    root = torch.linalg.solve_triangular(L, eye, upper=False)
    power = root.mT @ root
    for _ in range(SQUARINGS):
        power = power / power.abs().amax()
        power = power @ power
    v = normalize(power @ torch.linspace(1.0, 2.0, len(S), device=S.device)[:, None], dim=0)
    v = v.nan_to_num(0.0)  # where H is not positive and so has no root: W stays as it is
    return W - (1 - torch.linalg.slogdet(W)[0]) * (W @ v) @ v.mT  # type: ignore[no-any-return]


def confidences(
    downstream: Tensor, labels: Tensor, prototypes: Tensor, kind: Literal["cosine", "dot", "off"]
) -> Tensor:
    """The exponents of Eq. 10: how well each row fits its own class.

    Args:
        downstream: [K, D] rows v^d.
        labels: [K] classes.
        prototypes: [C, D] weights phi of the head; its bias plays no part.
        kind: `dot`, phi_y . v (Eq. 10); `cosine`, both at unit length (the official code); `off`, 0.

    Returns:
        [K] float32.
    """
    if kind == "off":
        return torch.zeros(len(downstream), device=downstream.device)
    rows, phi = downstream.float(), prototypes.float()
    fit = phi.index_select(0, labels).mul_(rows).sum(dim=1)
    if kind == "cosine":
        fit = fit / (rows.norm(dim=1) * phi.norm(dim=1)[labels]).clamp_min(1e-12)
    return fit


def class_shares(labels: Tensor, confident: Tensor, num_classes: int) -> Tensor:
    """Eq. 10: softmax of confidences [K] within each class; equal ones give the 1/N_c of Eq. 8.

    Returns:
        alpha, [K] float32; those of one class sum to 1.
    """
    peak = confident.new_full((num_classes,), -torch.inf).scatter_reduce_(0, labels, confident, "amax")
    share = (confident - peak[labels]).exp()
    return share / class_sums(labels, share, num_classes)[labels]


def class_sums(labels: Tensor, rows: Tensor, num_classes: int) -> Tensor:
    """Sum rows [K, ...] by class; [C, ...]."""
    return rows.new_zeros(num_classes, *rows.shape[1:]).index_add_(0, labels, rows)


@torch.no_grad()
def translate(
    pretrained: Tensor,
    downstream: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    rotation: Tensor | None,
    confidence: Literal["cosine", "dot", "off"],
    temperature: float,
    wanted: slice = slice(None),
) -> Tensor:
    """Eq. 8-12: move each class of the pretrained bank onto its place in the downstream bank.

    Args:
        pretrained: [K, D] rows v^p.
        downstream: [K, D] rows v^d of the same images.
        labels: [K] classes, int64 in 0..C-1. Any class may be absent or have one row.
        prototypes: [C, D] weights phi of the head.
        rotation: R [D, D]; None is no rotation.
        confidence: see `confidences`.
        temperature: divides the confidences in the softmax of Eq. 10; 1 in the paper.
        wanted: the k rows that are returned; the means are of all.

    Returns:
        [k, D] float32 rows x; `x @ rotation.T` are the rows of Eq. 12 (see the module's docstring).
    """
    with float32_maths(pretrained.device):
        rows, C = pretrained.float(), len(prototypes)
        confident = confidences(downstream, labels, prototypes, confidence) / temperature
        means = class_means if rows.device.type == "cpu" else class_means_by_products
        target, mean = means(rows, downstream.float(), labels, confident, C)
        if rotation is not None:
            target = target @ rotation
        return (target - mean).index_select(0, labels[wanted]).add_(rows[wanted])


def class_means(
    rows: Tensor, downstream: Tensor, labels: Tensor, confident: Tensor, C: int
) -> tuple[Tensor, Tensor]:
    """Eq. 9 and Eq. 8 without R: [C, D] confident means of the downstream rows, plain means of the others."""
    alpha = class_shares(labels, confident, C)
    target = class_sums(labels, alpha[:, None] * downstream, C)
    count = class_sums(labels, torch.ones_like(alpha), C).clamp_min(1)
    return target, class_sums(labels, rows, C) / count[:, None]


def class_means_by_products(
    rows: Tensor, downstream: Tensor, labels: Tensor, confident: Tensor, C: int
) -> tuple[Tensor, Tensor]:
    """`class_means` by matrix products: on a GPU a few large operations beat many that scatter.

    For K = D = 2048 and C = 200 on an H200: 0.3 ms, and 1.0 ms by deterministic scattering.
    """
    own = labels[:, None] == torch.arange(C, device=labels.device)
    alpha = confident[:, None].masked_fill(~own, LEAST).softmax(dim=0) * own
    share = own / own.sum(dim=0).clamp_min(1)
    return alpha.mT @ downstream, share.mT @ rows


@torch.no_grad()
def rescale(rows: Tensor, features: Tensor) -> Tensor:
    """Give rows [K, D] the mean length of the current batch's features [B, D]; zero rows stay zero.

    Not in the paper: model.py:61,92 of the official code.
    """
    rows, length = rows.float(), features.float().norm(dim=1).mean()
    return rows * (length / rows.norm(dim=1, keepdim=True).clamp_min(1e-12))  # type: ignore[no-any-return]


def scores(rows: Tensor, prototypes: Tensor, bias: Tensor, rotation: Tensor | None) -> Tensor:
    """The head's scores of calibrated rows, for Eq. 13: phi . (R x) + b, computed as (R^T phi) . x + b.

    Args:
        rows: [K, D] in the frame of the pretrained bank, as `translate` returns them; no gradient.
        prototypes: [C, D] phi, with gradient.
        bias: [C] b, with gradient.
        rotation: R [D, D]; None is no rotation.

    Returns:
        [K, C] float32.
    """
    with float32_maths(rows.device):
        phi = prototypes if rotation is None else prototypes @ rotation
        return linear(rows, phi, bias)
