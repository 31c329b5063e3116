from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from drtune.base.seeding import generator
from drtune.methods.dr_tune import calibration
from drtune.methods.dr_tune.calibration import (
    class_shares,
    confidences,
    nearest_by_products,
    nearest_orthogonal,
    polar_by_products,
    procrustes,
    rescale,
    scores,
    translate,
    without_reflection,
)
from drtune.training.losses import unit_rows

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden" / "dr_tune_official.safetensors"
few = settings(max_examples=30, deadline=None, derandomize=True)
SHAPES = [(1, 1), (1, 5), (7, 4), (4, 7), (3, 40), (40, 3), (12, 12), (20, 30)]
"""(K, D): more rows than features, fewer, far fewer, one"""


both_routes = pytest.mark.parametrize("route", ["svd", "products"])


@contextmanager
def taking(route):
    """Rotate by SVD, as on the CPU, or by matrix products, as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if route == "products":
            patch.setattr(calibration, "nearest_orthogonal", nearest_by_products)
        yield


def rotation_by(route, pretrained, downstream, proper, center):
    with taking(route):
        return procrustes(pretrained, downstream, proper=proper, center=center)


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.is_file():
        pytest.skip("official tensors are not beside the repository (../shared/golden)")
    return load_file(GOLDEN)


@st.composite
def banks(draw):
    """(pretrained, downstream, labels, prototypes): odd shapes, duplicate rows, zero rows, rare classes."""
    K, D = draw(st.sampled_from(SHAPES))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    pretrained = torch.randn(K, D, generator=random)
    downstream = pretrained + draw(st.sampled_from([0.0, 0.3, 3.0])) * torch.randn(K, D, generator=random)
    if draw(st.booleans()):
        pretrained, downstream = pretrained.relu(), downstream.relu()
    for kind in draw(st.sets(st.sampled_from(["duplicate", "zero", "equal"]))):
        if kind == "duplicate":
            pretrained[-1], downstream[-1] = pretrained[0], downstream[0]
        elif kind == "zero":
            pretrained[0] = downstream[0] = 0
        else:
            pretrained[:] = pretrained[-1].clone()
    C = draw(st.sampled_from([1, 2, 5]))
    labels = torch.randint(draw(st.integers(1, C)), (K,), generator=random)
    if draw(st.booleans()):
        labels[0] = C - 1
    return pretrained, downstream, labels, torch.randn(C, D, generator=random)


def svd_optimum(pretrained, downstream, proper, center):
    """The largest trace(R^T S), by SVD in float64: the sum of singular values, the last one signed."""
    P, Q = pretrained.double(), downstream.double()
    if center:
        P, Q = P - P.mean(0), Q - Q.mean(0)
    U, sigma, Vh = torch.linalg.svd(Q.T @ P)
    if proper:
        sigma[-1] *= torch.sign(torch.linalg.det(U) * torch.linalg.det(Vh))
    return float(sigma.sum()), Q.T @ P


def assert_optimal(rotation, pretrained, downstream, proper, center):
    D = pretrained.shape[1]
    assert (rotation @ rotation.T - torch.eye(D)).abs().max() < 1e-5
    best, S = svd_optimum(pretrained, downstream, proper, center)
    size = float(torch.linalg.matrix_norm(S, "nuc"))
    assert float((rotation.double() * S).sum()) >= best - 1e-4 * size - 1e-9
    if proper:
        assert torch.linalg.det(rotation.double()) > 0


@both_routes
@few
@given(bank=banks(), proper=st.booleans(), center=st.booleans())
def test_rotation_is_orthogonal_and_reaches_the_svd_optimum(route, bank, proper, center):
    pretrained, downstream, *_ = bank
    rotation = rotation_by(route, pretrained, downstream, proper, center)
    assert_optimal(rotation, pretrained, downstream, proper, center)


@few
@given(banks(), st.booleans())
def test_rotation_by_matrix_products_reaches_the_svd_optimum_too(bank, proper):
    pretrained, downstream, *_ = bank
    S = downstream.T @ pretrained
    S = S / torch.linalg.matrix_norm(S).clamp_min(1e-30) + 1e-6 * torch.eye(len(S))
    rotation = polar_by_products(S)
    assert_optimal(rotation, pretrained, downstream, False, False)
    if proper:
        assert_optimal(without_reflection(rotation, S), pretrained, downstream, True, False)


@pytest.mark.parametrize("D", [192, 300])
def test_rotation_by_matrix_products_at_larger_sizes_and_steep_spectra(D):
    random = torch.Generator().manual_seed(0)
    pretrained = torch.randn(400, D, generator=random) * torch.logspace(0, -4, D) + 1
    downstream = pretrained + 0.1 * torch.randn(400, D, generator=random) * torch.logspace(0, -4, D)
    S = downstream.T @ pretrained
    rotation = polar_by_products(S / torch.linalg.matrix_norm(S) + 1e-6 * torch.eye(D))
    assert_optimal(rotation, pretrained, downstream, False, False)


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("K", "D"), [(60, 8), (200, 48)])
@both_routes
def test_a_planted_rotation_is_recovered(route, K, D, center, reflect):
    random = torch.Generator().manual_seed(D)
    planted = torch.linalg.qr(torch.randn(D, D, generator=random)).Q
    if (torch.linalg.det(planted) < 0) != reflect:
        planted[:, 0] *= -1
    pretrained = torch.randn(K, D, generator=random)
    downstream = pretrained @ planted.T + (5.0 if center else 0.0)
    found = rotation_by(route, pretrained, downstream, not reflect, center)
    torch.testing.assert_close(found, planted, rtol=0, atol=2e-5)


@both_routes
def test_a_reflection_is_refused_where_the_rotation_must_be_proper(route):
    pretrained = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    downstream = pretrained * torch.tensor([1.0, 1, 1, 1, 1, -1])
    assert torch.linalg.det(rotation_by(route, pretrained, downstream, True, False)) > 0
    assert torch.linalg.det(rotation_by(route, pretrained, downstream, False, False)) < 0


@pytest.mark.parametrize(("K", "D"), [(5, 40), (5, 9), (10, 16)])
@both_routes
def test_directions_without_data_stay_where_they_are(route, K, D):
    random = torch.Generator().manual_seed(0)
    used = K - 1
    pretrained, downstream = torch.zeros(K, D), torch.zeros(K, D)
    pretrained[:, :used] = torch.randn(K, used, generator=random)
    downstream[:, :used] = torch.randn(K, used, generator=random)
    rotation = rotation_by(route, pretrained, downstream, False, False)
    torch.testing.assert_close(rotation[used:, used:], torch.eye(D - used), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("K", "D"), [(5, 40), (60, 20)])
@both_routes
def test_equal_banks_give_the_identity(route, K, D):
    rows = torch.randn(K, D, generator=torch.Generator().manual_seed(1))
    rotation = rotation_by(route, rows, rows, True, True)
    torch.testing.assert_close(rotation, torch.eye(D), rtol=0, atol=1e-5)


@both_routes
def test_new_rows_outside_the_bank_are_not_scrambled(route):
    random = torch.Generator().manual_seed(0)
    rows = torch.rand(80, 16, generator=random) @ torch.randn(16, 60, generator=random).relu()
    bank, new = rows[:40], rows[40:] + torch.rand(40, 60, generator=random)
    moved = bank + 0.05 * torch.rand(40, 60, generator=random)
    rotation = rotation_by(route, bank, moved, True, True)
    assert (new @ rotation.T - new).norm() < 0.1 * (new - new.mean(dim=0)).norm()


@both_routes
def test_banks_of_zeros_give_the_identity(route):
    rows = torch.zeros(6, 4)
    torch.testing.assert_close(rotation_by(route, rows, rows, True, True), torch.eye(4))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
@both_routes
def test_the_rotation_does_not_depend_on_the_scale_of_the_features(route, scale):
    rows = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
    other = torch.randn(30, 6, generator=torch.Generator().manual_seed(2))
    expected = rotation_by("svd", rows, other, False, False)
    found = rotation_by(route, rows * scale, other * scale, False, False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def slow_translation(pretrained, downstream, labels, prototypes, rotation, confidence, temperature):
    """Eq. 8-12, class by class and row by row, in float64."""
    P, Q, phi = (tensor.double().numpy() for tensor in (pretrained, downstream, prototypes))
    rotated = P @ rotation.double().numpy().T
    out = rotated.copy()
    for c in range(len(phi)):
        rows = [k for k in range(len(P)) if int(labels[k]) == c]
        if not rows:
            continue
        exponents = []
        for k in rows:
            v, w = Q[k], phi[c]
            if confidence == "cosine":
                v, w = v / max(np.linalg.norm(v), 1e-12), w / max(np.linalg.norm(w), 1e-12)
            exponents.append(0.0 if confidence == "off" else float(v @ w) / temperature)
        weights = np.exp(np.array(exponents) - max(exponents))
        weights /= weights.sum()
        target = sum(a * Q[k] for a, k in zip(weights, rows, strict=True))
        for k in rows:
            out[k] = rotated[k] + target - rotated[rows].mean(axis=0)
    return torch.from_numpy(out).float()


@few
@given(banks(), st.sampled_from(["cosine", "dot", "off"]), st.sampled_from([0.1, 1.0, 10.0]), st.booleans())
def test_translation_equals_a_slow_loop(bank, confidence, temperature, rotate):
    pretrained, downstream, labels, prototypes = bank
    D = pretrained.shape[1]
    rotation = procrustes(pretrained, downstream, proper=True, center=True) if rotate else torch.eye(D)
    rows = translate(
        pretrained, downstream, labels, prototypes, rotation if rotate else None, confidence, temperature
    )
    expected = slow_translation(*bank, rotation, confidence, temperature)
    torch.testing.assert_close(rows @ rotation.T, expected, rtol=1e-4, atol=1e-4)


@few
@given(banks(), st.sampled_from(["cosine", "dot", "off"]))
def test_class_means_after_translation_are_the_weighted_means(bank, confidence):
    pretrained, downstream, labels, prototypes = bank
    rotation = procrustes(pretrained, downstream, proper=False, center=False)
    rows = translate(pretrained, downstream, labels, prototypes, rotation, confidence, 1.0) @ rotation.T
    alpha = class_shares(labels, confidences(downstream, labels, prototypes, confidence), len(prototypes))
    for c in labels.unique().tolist():
        one = labels == c
        assert float(alpha[one].sum()) == pytest.approx(1)
        torch.testing.assert_close(rows[one].mean(0), alpha[one] @ downstream[one], rtol=1e-4, atol=1e-4)


@both_routes
@few
@given(bank=banks(), seed=st.integers(0, 1000))
def test_the_order_of_rows_changes_nothing(route, bank, seed):
    pretrained, downstream, labels, prototypes = bank
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    plain = translate(pretrained, downstream, labels, prototypes, None, "cosine", 1.0)
    mixed = translate(pretrained[order], downstream[order], labels[order], prototypes, None, "cosine", 1.0)
    torch.testing.assert_close(mixed, plain[order], rtol=1e-5, atol=1e-5)
    _, S = svd_optimum(pretrained, downstream, False, False)
    one, other = (
        (rotation_by(route, pretrained[i], downstream[i], False, False).double() * S).sum()
        for i in (torch.arange(len(labels)), order)
    )
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@both_routes
@few
@given(bank=banks(), dtype=st.sampled_from([torch.bfloat16, torch.float16]), autocast=st.booleans())
def test_half_precision_input_is_computed_in_float32_whatever_the_autocast(route, bank, dtype, autocast):
    pretrained, downstream, labels, prototypes = bank
    halves = pretrained.to(dtype), downstream.to(dtype), labels, prototypes.to(dtype)
    exact = [tensor.float() if tensor.is_floating_point() else tensor for tensor in halves]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rotation = rotation_by(route, *halves[:2], True, True)
        rows = translate(*halves, rotation, "dot", 1.0)
        logits = scores(rows, prototypes, torch.zeros(len(prototypes)), rotation)
        length = rescale(halves[0], halves[1])
    expected = rotation_by(route, *exact[:2], True, True)
    assert rotation.dtype == rows.dtype == logits.dtype == length.dtype == torch.float32
    assert torch.equal(rotation, expected)
    assert torch.equal(rows, translate(*exact, expected, "dot", 1.0))
    assert torch.equal(logits, scores(rows, prototypes, torch.zeros(len(prototypes)), expected))
    assert torch.equal(length, rescale(*exact[:2]))
    assert logits.isfinite().all()


def test_matrix_precision_is_put_back():
    torch.set_float32_matmul_precision("high")
    try:
        procrustes(torch.ones(3, 2), torch.ones(3, 2), proper=False, center=False)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_shares_of_absent_and_single_classes_and_extreme_confidences():
    shares = class_shares(torch.tensor([0, 0, 3, 4, 4]), torch.tensor([1e30, 1e30, -1e30, 0.0, -1e30]), 6)
    assert shares.tolist() == [0.5, 0.5, 1.0, 1.0, 0.0]


def test_scores_are_those_of_the_rotated_rows_and_train_the_head_alone():
    random = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 3)
    rows = torch.randn(10, 6, generator=random)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=random)).Q
    weights = torch.randn(10, 3, generator=random)
    (scores(rows, head.weight, head.bias, rotation) * weights).sum().backward()
    given_back = head.weight.grad.clone(), head.bias.grad.clone()
    head.zero_grad()
    (head(rows @ rotation.T) * weights).sum().backward()
    torch.testing.assert_close(given_back, (head.weight.grad, head.bias.grad))
    torch.testing.assert_close(scores(rows, head.weight, head.bias, None), head(rows))


def test_rescale_gives_the_mean_length_of_the_batch_and_keeps_zeros():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    out = rescale(rows, torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(out, torch.tensor([[1.8, 2.4], [0.0, 0.0]]))


def test_nothing_here_carries_a_gradient():
    rows = torch.randn(5, 3, requires_grad=True)
    labels, phi = torch.zeros(5, dtype=torch.long), torch.nn.Parameter(torch.randn(1, 3))
    assert not procrustes(rows, rows, proper=False, center=False).requires_grad
    assert not translate(rows, rows, labels, phi, None, "cosine", 1.0).requires_grad
    assert not rescale(rows, rows).requires_grad


@both_routes
def test_a_single_dimension_turns_by_its_sign(route):
    up, down = torch.ones(4, 1), -torch.ones(4, 1)
    assert float(rotation_by(route, up, down, False, False)) == pytest.approx(-1)
    assert float(rotation_by(route, up, down, True, False)) == pytest.approx(1)


@both_routes
@pytest.mark.parametrize("D", [300, 500])
def test_a_rotation_of_many_dimensions_is_proper(route, D):
    random = torch.Generator().manual_seed(D)
    turn = torch.linalg.qr(torch.randn(D, D, generator=random)).Q
    if torch.linalg.slogdet(turn)[0] > 0:
        turn[:, 0] *= -1  # the optimum is a reflection
    pretrained = torch.randn(2 * D, D, generator=random)
    found = {
        proper: rotation_by(route, pretrained, pretrained @ turn.T, proper, False) for proper in (True, False)
    }
    assert {proper: float(torch.linalg.slogdet(R)[0]) for proper, R in found.items()} == {
        True: 1.0,
        False: -1.0,
    }


def test_the_cpu_takes_the_svd():
    S = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest_orthogonal(S, False), calibration.polar_by_svd(S, None))


@pytest.mark.parametrize("case", ["calibration0", "calibration1", "calibration2"])
def test_parity_with_the_official_calibration(golden, case):
    of = {name.removeprefix(f"{case}."): v for name, v in golden.items() if name.startswith(case)}
    pretrained, downstream = unit_rows(of["pretrained_bank"]), unit_rows(of["downstream_bank"])
    rotation = procrustes(pretrained, downstream, proper=True, center=True)
    rotated = (pretrained - pretrained.mean(dim=0)) @ rotation.T
    close(rotated, of["rot_align"])
    for R, name in ((rotation, "calibrated_rotation"), (None, "calibrated_no_rotation")):
        rows = translate(pretrained, downstream, of["labels"], of["head_weight"], R, "cosine", 1.0)
        rows = rescale(rows if R is None else rows @ R.T, of["batch_features"])
        close(rows, of[name])


def close(found, expected):
    """Within 1e-4 of the largest value, the relative measure of a tensor."""
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_features_that_are_not_finite_make_no_fault_of_their_own():
    rows = torch.randn(20, 6)
    broken = rows.clone()
    broken[3, 2] = torch.inf
    assert procrustes(rows, broken, proper=True, center=True).isnan().any()


def refuse(S):
    raise torch.linalg.LinAlgError("did not converge")


def not_a_number(S):
    """What LAPACK once said of a matrix of finite numbers whose singular values are nearly all 1."""
    return S * torch.nan, torch.ones(len(S)), S


@pytest.mark.parametrize("give_up", [refuse, not_a_number])
def test_where_lapack_gives_up_the_products_serve(monkeypatch, give_up):
    pretrained, downstream = torch.randn(2, 30, 6, generator=generator(0))
    S = downstream.mT @ pretrained
    best = (procrustes(pretrained, downstream, proper=True, center=False) * S).sum()
    monkeypatch.setattr(torch.linalg, "svd", give_up)
    found = procrustes(pretrained, downstream, proper=True, center=False)
    torch.testing.assert_close(found @ found.mT, torch.eye(6), rtol=0, atol=1e-5)
    torch.testing.assert_close((found * S).sum(), best, rtol=1e-4, atol=0)


def test_data_of_rank_one_at_right_angles_still_give_an_orthogonal_map():
    S = torch.zeros(6, 6)
    S[1:, 0] = torch.tensor([1.0, 0.5, -4.0, 2.7, -2.7])
    W = nearest_by_products(S, proper=False)
    torch.testing.assert_close(W @ W.T, torch.eye(6), atol=1e-5, rtol=0)
    assert float((W * S).sum()) == pytest.approx(float(S.norm()), rel=1e-4)


@both_routes
def test_the_direction_that_is_turned_round_is_the_weakest_though_many_are_nearly_as_weak(route):
    random = torch.Generator().manual_seed(0)
    P = torch.randn(400, 100, generator=random)
    turn = torch.linalg.qr(torch.randn(100, 100, generator=random)).Q
    turn[:, 0] *= -torch.linalg.slogdet(turn)[0]  # a reflection, so that one direction has to be turned
    Q = P @ turn.T + 0.1 * torch.randn(400, 100, generator=random)
    with taking(route):
        R = procrustes(P, Q, proper=True, center=False).double()
    U, _, Vh = torch.linalg.svd(Q.double().T @ P.double())
    U[:, -1] *= torch.linalg.slogdet(U @ Vh)[0]
    best = (P.double() @ (U @ Vh).T - Q.double()).square().sum()
    assert float((P.double() @ R.T - Q.double()).square().sum() / best) < 1 + 1e-4
    assert float(torch.linalg.slogdet(R)[0]) == 1


@pytest.mark.parametrize(("K", "C"), [(50, 7), (64, 100), (300, 3)])
def test_class_means_by_products_are_those_by_scattering(K, C):
    random = torch.Generator().manual_seed(K)
    rows, downstream = torch.randn(2, K, 12, generator=random)
    labels, confident = torch.randint(C, (K,), generator=random), 50 * torch.randn(K, generator=random)
    wanted = calibration.class_means(rows, downstream, labels, confident, C)
    found = calibration.class_means_by_products(rows, downstream, labels, confident, C)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
