import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import Classifier
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.bss.method import BSS, BSSSettings, spectral_shrinkage
from drtune.training.settings import TrainSettings

N, INPUTS, D, C = 24, 7, 10, 3
IMAGES = torch.randn(N, INPUTS, generator=generator(0))
LABELS = torch.arange(N) % C


def classifier():
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Linear(INPUTS, D), nn.ReLU()), D, C)


def method_of(eta=0.001, k=1, label_smoothing=0.0):
    return BSS(
        BSSSettings(eta=eta, k=k), TrainSettings.model_construct(label_smoothing=label_smoothing, seed=0)
    )


def batch_of(rows):
    index = torch.as_tensor(rows)
    return Batch(IMAGES[index], LABELS[index], index, torch.zeros_like(index))


def by_eigenvalues(features, k):
    """The official loop over the k smallest, with eigenvalues of the smaller Gram matrix, in float64."""
    rows = features.detach().double().numpy()
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    ascending = sorted(float(value) for value in np.linalg.eigvalsh(rows @ rows.T))
    total = 0.0
    for i in range(min(k, len(ascending))):
        total += max(ascending[i], 0.0)
    return total


@pytest.mark.parametrize("k", [1, 2, 5, 100])
@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 6), (1, 9), (3, 9)])
def test_it_is_the_sum_of_the_k_smallest_squared_singular_values(shape, k):
    features = torch.rand(*shape, generator=generator(1)) * 3
    np.testing.assert_allclose(spectral_shrinkage(features, k).item(), by_eigenvalues(features, k), rtol=1e-4)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_the_gradient_is_that_of_finite_differences(shape):
    features = torch.rand(*shape, generator=generator(2))
    asked = features.clone().requires_grad_()
    spectral_shrinkage(asked, 2).backward()
    for row, column in ((0, 0), (4, 2), (2, 4)):
        sides = []
        for step in (1e-5, -1e-5):
            moved = features.double()
            moved[row, column] += step
            sides.append(by_eigenvalues(moved, 2))
        np.testing.assert_allclose(
            asked.grad[row, column].item(), (sides[0] - sides[1]) / 2e-5, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    "features",
    [
        torch.zeros(4, 6), torch.eye(5), torch.ones(3, 7), torch.rand(4, 6).repeat(2, 1),
        torch.full((6, 4), 1e-30), torch.full((2, 5), 1e6),
        torch.tensor([[0.0, float("nan"), float("inf")], [1.0, 2.0, 3.0]]),
    ],
    ids=["zero", "repeated", "one_direction", "twins", "tiny", "huge", "not_finite"],
)  # fmt: skip
def test_value_and_gradient_are_finite_where_singular_values_meet_or_vanish(features):
    features = features.clone().requires_grad_()
    for k in (1, 3):
        value = spectral_shrinkage(features, k)
        value.backward()
        assert value.isfinite()
        assert features.grad.isfinite().all()


def test_shrinking_pulls_the_smallest_singular_value_and_no_other():
    features = torch.rand(6, 9, generator=generator(3)).requires_grad_()
    before = torch.linalg.svdvals(features.detach())
    spectral_shrinkage(features, 1).backward()
    after = torch.linalg.svdvals(features.detach() - 0.25 * features.grad)
    torch.testing.assert_close(after[:-1], before[:-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after[-1], before[-1] / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [range(8), [3], range(0, 24, 3)], ids=["plain", "one_image", "one_class"])
def test_the_objective(rows):
    model, batch = classifier(), batch_of(list(rows))
    features, logits = model(batch.images)
    terms = method_of(eta=0.3, k=2, label_smoothing=0.1).loss(model, batch).weighted
    torch.testing.assert_close(
        terms["cross_entropy"], cross_entropy(logits, batch.labels, label_smoothing=0.1)
    )
    np.testing.assert_allclose(
        terms["shrinkage"].item(), 0.3 * by_eigenvalues(features, 2), rtol=1e-4, atol=1e-6
    )


def test_the_encoder_feels_the_shrinkage_and_the_head_does_not():
    model, method = classifier(), method_of(eta=1.0, k=3)
    method.loss(model, batch_of(range(8))).weighted["shrinkage"].backward()
    assert model.encoder[0].weight.grad.abs().max() > 0
    assert model.head.weight.grad is None


def test_features_in_half_precision_are_factored_in_float32():
    features = torch.rand(6, 9, generator=generator(4)).bfloat16()
    assert spectral_shrinkage(features, 2).dtype == torch.float32
    np.testing.assert_allclose(
        spectral_shrinkage(features, 2).item(), by_eigenvalues(features.float(), 2), rtol=1e-4
    )
