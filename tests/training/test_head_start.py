import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from drtune.banks.bank import BankHeader, FeatureBank
from drtune.base.seeding import generator
from drtune.training import head_start
from drtune.training.head_start import ITERATIONS, STRENGTHS, TOLERANCE, bank_rows, solve_head


def clouds(n, classes, dim=6, distance=3.0, scale=1.0, seed=0):
    """n points of each class around its own centre."""
    random = generator(seed)
    centres = distance * torch.randn(classes, dim, generator=generator(99))
    labels = torch.arange(n * classes) % classes
    return scale * (centres[labels] + torch.randn(len(labels), dim, generator=random) + 5), labels


def loss_of(head, features, labels):
    return float(cross_entropy(features @ head.weight.T + head.bias, labels))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_classifies_what_can_be_classified(classes):
    features, labels = clouds(30, classes)
    other, truth = clouds(30, classes, seed=1)
    head = solve_head(features, labels, other, truth, classes)
    assert head.weight.shape == (classes, 6)
    assert head.weight.dtype == head.bias.dtype == torch.float32
    scores = other @ head.weight.T + head.bias
    assert (scores.argmax(1) == truth).float().mean() > 0.95
    assert head.train_loss == pytest.approx(loss_of(head, features, labels), abs=1e-4)


def test_a_scale_moves_no_prediction_and_multiplies_the_scores():
    features, labels = clouds(20, 3, distance=0.7)
    whole = solve_head(features, labels, features, labels, 3)
    tenth = solve_head(features, labels, features, labels, 3, scale=0.1)
    torch.testing.assert_close(tenth.weight, 0.1 * whole.weight)
    torch.testing.assert_close(tenth.bias, 0.1 * whole.bias)
    assert tenth.strength == whole.strength, "validation chooses before the head is scaled"
    assert tenth.train_loss == pytest.approx(loss_of(tenth, features, labels), abs=1e-4)
    assert tenth.train_loss > whole.train_loss + 0.1


def test_it_is_the_optimum_for_the_chosen_strength():
    features, labels = clouds(20, 3, distance=0.7)
    other, truth = clouds(200, 3, distance=0.7, seed=1)
    head = solve_head(features, labels, other, truth, 3)
    centred = features - features.mean(0)
    length = centred.square().sum(1).mean().sqrt()
    solver = LogisticRegression(C=head.strength, max_iter=5000, tol=1e-8)
    solver.fit((centred / length).double().numpy(), labels.numpy())
    expected = solver.predict_proba((centred / length).double().numpy())
    found = (features @ head.weight.T + head.bias).softmax(1)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("classes", "absent"), [(7, []), (2, []), (5, [2]), (4, [0, 2])], ids=["7", "2", "4_of_5", "2_of_4"]
)
def test_the_folded_head_gives_the_solver_s_decision_function(classes, absent, monkeypatch):
    features, labels = clouds(20, classes, distance=1.0, scale=20.0)
    rows = torch.tensor([label not in absent for label in labels.tolist()])
    features, labels = features[rows], labels[rows]
    monkeypatch.setattr(head_start, "STRENGTHS", (3.0,))
    head = solve_head(features, labels, features, labels, classes)
    centred = features.double() - features.double().mean(0)
    X = (centred / centred.square().sum(1).mean().sqrt()).numpy()
    solver = LogisticRegression(C=3.0, max_iter=ITERATIONS, tol=TOLERANCE).fit(X, labels.numpy())
    expected = torch.from_numpy(solver.decision_function(X))
    scores = (features @ head.weight.T + head.bias).double()
    found = scores[:, torch.from_numpy(solver.classes_)]
    if len(solver.classes_) == 2:  # scikit-learn keeps one column: the second class against the first
        found = found[:, 1] - found[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert expected.abs().max() > 1


def test_validation_chooses_the_strength():
    features, labels = clouds(10, 3, dim=40, distance=0.3)
    other, truth = clouds(300, 3, dim=40, distance=0.3, seed=1)
    head = solve_head(features, labels, other, truth, 3)
    by_strength = {}
    for strength in STRENGTHS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(head_start, "STRENGTHS", (strength,))
            alone = solve_head(features, labels, other, truth, 3)
        by_strength[strength] = loss_of(alone, other, truth)
    assert len({round(loss, 3) for loss in by_strength.values()}) > 3
    assert by_strength[head.strength] == pytest.approx(min(by_strength.values()), abs=2e-3)


def test_the_scale_of_the_features_does_not_matter():
    features, labels = clouds(20, 3, distance=0.7)
    other, truth = clouds(50, 3, distance=0.7, seed=1)
    one = solve_head(features, labels, other, truth, 3)
    large = solve_head(1000 * features, labels, 1000 * other, truth, 3)
    assert one.strength == large.strength
    torch.testing.assert_close(large.weight * 1000, one.weight, atol=1e-3, rtol=1e-3)


def test_a_class_without_a_row_is_never_the_answer():
    features, labels = clouds(20, 4)
    present = labels != 2
    head = solve_head(features[present], labels[present], features, labels, 4)
    assert (head.weight[2] == 0).all()
    assert head.bias[2] <= head.bias.max()
    scores = features[present] @ head.weight.T + head.bias
    assert (scores.argmax(1) == labels[present]).float().mean() > 0.95


def test_one_class_alone_gives_a_flat_head():
    features, labels = clouds(5, 1)
    head = solve_head(features, labels, features, labels, 3)
    assert (head.weight == 0).all()
    assert (head.bias == 0).all()


def test_equal_rows_are_no_division_by_zero():
    features, labels = torch.ones(8, 4), torch.arange(8) % 2
    head = solve_head(features, labels, features, labels, 2)
    assert head.weight.isfinite().all()
    assert head.train_loss == pytest.approx(0.6931, abs=1e-3)


def bank(views, rows):
    features = torch.arange(views * rows, dtype=torch.float32).view(views, rows, 1).expand(-1, -1, 3)
    header = BankHeader(
        backbone="toy", weights_sha256="w", data_sha256="d", transform="{}", views=views,
        augmented=views > 1, augment_seed=0, dtype="float32",
    )  # fmt: skip
    return FeatureBank.from_tensors(features, torch.arange(rows), [str(i) for i in range(rows)], header)


def test_rows_are_one_view_of_every_image():
    features, labels = bank_rows(bank(3, 50), seed=0)
    assert labels.tolist() == list(range(50))
    assert (features[:, 0] % 50).tolist() == list(range(50))
    assert len((features[:, 0] // 50).unique()) == 3


def test_of_a_large_bank_some_rows_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(head_start, "MOST_ROWS", 20)
    _, labels = bank_rows(bank(1, 500), seed=0)
    assert len(set(labels.tolist())) == 20
    assert torch.equal(labels, bank_rows(bank(1, 500), seed=0)[1])
    assert not torch.equal(labels, bank_rows(bank(1, 500), seed=1)[1])
