import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from drtune.methods.core_tuning.mixing import hard_pairs, mix, mixing, same_labels


def slow_hard_pairs(features, labels, official):
    z, y = features.double().numpy(), labels.tolist()
    cosine = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in z] for a in z]
    hp, hn = [], []
    for i, row in enumerate(cosine):
        mine = [j for j in range(len(y)) if y[j] == y[i] and j != i]
        others = [j for j in range(len(y)) if y[j] != y[i]]
        if official:
            masked = [row[j] if j in mine else 0.0 for j in range(len(y))]
            least = masked.index(min(masked))
            hp.append(i if least == 0 else least)
        else:
            hp.append(min(mine, key=row.__getitem__) if mine else i)
        hn.append(max(others, key=row.__getitem__) if others else i)
    return hp, hn


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("case", ["mixed", "negative_cosines", "one_class", "all_alone", "one_row"])
def test_hard_pairs_equal_slow_loops(case, official):
    random = torch.Generator().manual_seed(1)
    features = torch.rand(12, 5, generator=random) - (0.5 if case == "negative_cosines" else 0)
    labels = torch.randint(4, (12,), generator=random)
    if case == "one_class":
        labels = torch.zeros(12, dtype=torch.long)
    elif case == "all_alone":
        labels = torch.arange(12)
    elif case == "one_row":
        features, labels = features[:1], labels[:1]
    found = hard_pairs(features, labels, official)
    assert tuple(part.tolist() for part in found) == slow_hard_pairs(features, labels, official)


def test_official_mining_never_finds_a_positive_among_non_negative_features():
    random = torch.Generator().manual_seed(2)
    features, labels = torch.rand(64, 20, generator=random), torch.randint(10, (64,), generator=random)
    own = torch.arange(64)
    (hp, _), (paper, _) = (hard_pairs(features, labels, official) for official in (True, False))
    assert not ((labels[hp] == labels) & (hp != own)).any()
    assert (hp == own).float().mean() > 0.7
    assert ((labels[paper] == labels) & (paper != own)).all()


def random_mixing(labels, seed, equal_shares):
    random = torch.Generator().manual_seed(seed)
    B = len(labels)
    hp, hn, order = (torch.randint(B, (B,), generator=random) for _ in range(3))
    low, high = (torch.rand(B, generator=random) for _ in range(2))
    if equal_shares:
        high = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])[torch.randint(5, (B,), generator=random)]
    return mixing(hp, hn, order, low, high), (hp, hn, order, low, high)


def test_mixing_equals_slow_loops():
    random = torch.Generator().manual_seed(3)
    rows, labels = torch.randn(7, 4, generator=random), torch.arange(7)
    mixed, (hp, hn, order, low, high) = random_mixing(labels, 4, equal_shares=False)
    expected = [row.double() for row in rows]
    for i in range(7):
        share = max(low[i].item(), 0.8)
        expected.append((1 - share) * rows[i].double() + share * rows[order[i]].double())
    for i in range(7):
        expected.append(high[i].item() * rows[hp[i]].double() + (1 - high[i].item()) * rows[hn[i]].double())
    torch.testing.assert_close(mix(rows, mixed), torch.stack(expected).float())
    assert torch.equal(mix(rows, mixed)[:7], rows)


@pytest.mark.parametrize("equal_shares", [False, True])
@pytest.mark.parametrize("classes", [2, 5, 104])
def test_rows_share_a_label_just_where_their_mixed_label_vectors_are_equal(classes, equal_shares):
    random = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes, (32,), generator=random)
    mixed, _ = random_mixing(labels, classes, equal_shares)
    vectors = mix(one_hot(labels, classes).float(), mixed)
    expected = (vectors[:, None] == vectors).all(dim=2)
    found = same_labels(labels, mixed, classes)
    assert torch.equal(found, expected)
    assert expected.sum() > len(vectors)
    assert not expected.all()


def test_no_two_of_104_classes_are_merged():
    labels = torch.arange(104)
    whole = mixing(labels, labels, labels, torch.ones(104), torch.ones(104))
    assert torch.equal(same_labels(labels, whole, 104), torch.eye(104, dtype=torch.bool).repeat(3, 3))
