import pytest
import torch
from torch.nn.functional import cross_entropy

from drtune.losses import regularized


def test_sum_is_the_objective_plus_the_weighted_regularizer():
    terms = regularized(torch.tensor(2.0), torch.tensor(3.0), 4.0, "sum")
    assert [float(term) for term in terms] == [2.0, 12.0]


@pytest.mark.parametrize(("batch", "bank"), [(8, 32), (5, 3), (1, 1)])
def test_mean_with_bank_over_batch_is_one_mean_over_all_rows(batch, bank):
    random = torch.Generator().manual_seed(batch)
    logits = torch.randn(batch + bank, 6, generator=random, dtype=torch.float64)
    labels = torch.randint(6, (batch + bank,), generator=random)
    terms = regularized(
        cross_entropy(logits[:batch], labels[:batch]),
        cross_entropy(logits[batch:], labels[batch:]),
        bank / batch,
        "mean",
    )
    torch.testing.assert_close(sum(terms), cross_entropy(logits, labels))


def test_mean_of_any_weight_keeps_the_ratio_of_the_terms():
    objective, regularizer = regularized(torch.tensor(1.0), torch.tensor(1.0), 0.25, "mean")
    assert float(objective) == pytest.approx(0.8)
    assert float(regularizer) == pytest.approx(0.2)
