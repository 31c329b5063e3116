import math

import pytest
import torch

from drtune.training.losses import not_self, similarities, supervised_contrast


def scores_and_masks(n, m, seed, empty_row=False):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, m, generator=random) * 5
    candidates = torch.rand(n, m, generator=random) < 0.8
    positives = candidates & (torch.rand(n, m, generator=random) < 0.3)
    positives[1] = False
    if empty_row:
        candidates[2] = positives[2] = False
    return scores, positives, candidates


def slow_contrast(scores, positives, candidates, focal, divide_by, average_over):
    """The equations of the docstring, in loops over Python floats."""
    total, anchors = 0.0, 0
    n, m = scores.shape
    for i in range(n):
        P = [j for j in range(m) if positives[i, j]]
        A = [j for j in range(m) if candidates[i, j]]
        anchors += 1 if P or average_over == "all" else 0
        loss = 0.0
        for j in P:
            p = math.exp(scores[i, j]) / sum(math.exp(scores[i, k]) for k in A)
            loss -= (1 - p if focal else 1) * math.log(p)
        total += loss / (m if divide_by == "columns" else max(len(P), 1))
    return total / max(anchors, 1)


@pytest.mark.parametrize("average_over", ["all", "with_positives"])
@pytest.mark.parametrize("divide_by", ["positives", "columns"])
@pytest.mark.parametrize("focal", [False, True])
@pytest.mark.parametrize("shape", [(6, 6), (5, 17), (4, 1)])
def test_contrast_equals_its_equations(shape, focal, divide_by, average_over):
    parts = scores_and_masks(*shape, seed=sum(shape), empty_row=True)
    how = {"focal": focal, "divide_by": divide_by, "average_over": average_over}
    found = supervised_contrast(*parts, **how)
    assert found.item() == pytest.approx(slow_contrast(*parts, **how), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("focal", [False, True])
def test_contrast_has_the_gradient_of_the_loops(focal):
    scores, positives, candidates = scores_and_masks(4, 6, seed=3)
    how = {"focal": focal, "divide_by": "positives", "average_over": "with_positives"}
    scores.requires_grad_()
    supervised_contrast(scores, positives, candidates, **how).backward()
    base, step = scores.detach().double(), 1e-5
    for place in [(0, 0), (0, 3), (2, 1), (3, 5)]:
        up, down = base.clone(), base.clone()
        up[place] += step
        down[place] -= step
        slope = slow_contrast(up, positives, candidates, **how) - slow_contrast(
            down, positives, candidates, **how
        )
        assert scores.grad[place].item() == pytest.approx(slope / (2 * step), abs=1e-6)
    assert scores.grad.abs().sum() > 0
    assert scores.grad[1].abs().sum() == 0, "an anchor without positives has no gradient"


@pytest.mark.parametrize("focal", [False, True])
def test_contrast_without_any_positive_is_zero_with_a_gradient_of_zeros(focal):
    for n in (1, 5):
        scores = torch.randn(n, n, requires_grad=True)
        candidates = not_self(n, scores.device)
        for average_over in ("all", "with_positives"):
            loss = supervised_contrast(
                scores, torch.zeros(n, n, dtype=torch.bool), candidates,
                focal=focal, divide_by="positives", average_over=average_over,
            )  # fmt: skip
            (gradient,) = torch.autograd.grad(loss, scores)
            assert loss.item() == 0
            assert (gradient == 0).all()


@pytest.mark.parametrize("focal", [False, True])
def test_contrast_of_extreme_scores_stays_finite(focal):
    scores = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, 3e4], [1e4, 0.0, -1e4]], requires_grad=True)
    loss = supervised_contrast(
        scores, torch.eye(3, dtype=torch.bool).roll(1, 0), not_self(3, scores.device),
        focal=focal, divide_by="positives", average_over="all",
    )  # fmt: skip
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_similarities_are_float32_under_autocast():
    queries, keys = torch.randn(4, 64), torch.randn(7, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = similarities(queries, keys, 0.07)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, queries @ keys.T / 0.07)
