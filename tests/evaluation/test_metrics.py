import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from sklearn.metrics import confusion_matrix as reference_confusion

from drtune.backbones.predictions import negative_log_likelihood, topk_accuracy
from drtune.evaluation import metrics


def task(n, classes, seed=0, signal=1.5, present=None):
    """Class scores and labels of a classifier that is right more often than not."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(present or classes, (n,), generator=draws)
    logits = torch.randn(n, classes, generator=draws)
    logits[torch.arange(n), labels] += signal
    return logits, labels


def values_of(logits, labels, bins=15):
    """The headline numbers of the samples themselves."""
    scores = metrics.sample_scores(logits, labels, bins)
    ones = torch.ones(len(labels), 1, dtype=torch.float64)
    return {name: value.item() for name, value in metrics.headline(scores, ones).items()}


def slow_values(logits, labels, bins):
    """The headline numbers by their definitions, one sample at a time."""
    n, classes = logits.shape
    rows, truth = logits.double().tolist(), labels.tolist()
    order = [sorted(range(classes), key=lambda c, row=row: (-row[c], c)) for row in rows]
    said = [ranking[0] for ranking in order]
    chances = []
    for row in rows:
        powers = [math.exp(score - max(row)) for score in row]
        chances.append([power / sum(powers) for power in powers])
    recalls, f1s = [], []
    for c in range(classes):
        hits = sum(t == c == s for t, s in zip(truth, said, strict=True))
        if c in truth:
            recalls.append(hits / truth.count(c))
        if c in truth or c in said:
            f1s.append(2 * hits / (truth.count(c) + said.count(c)))
    ece = 0.0
    for m in range(bins):
        inside = [i for i in range(n) if m / bins < max(chances[i]) <= (m + 1) / bins]
        ece += abs(sum(max(chances[i]) - (said[i] == truth[i]) for i in inside)) / n
    return {
        "accuracy": sum(s == t for s, t in zip(said, truth, strict=True)) / n,
        "top5": sum(t in ranking[:5] for t, ranking in zip(truth, order, strict=True)) / n,
        "mean_per_class": sum(recalls) / len(recalls),
        "macro_f1": sum(f1s) / len(f1s),
        "nll": sum(-math.log(chances[i][truth[i]]) for i in range(n)) / n,
        "ece": ece,
    }


@pytest.mark.parametrize(("n", "classes"), [(40, 2), (60, 3), (200, 7), (300, 30)])
def test_equals_scikit_learn(n, classes):
    logits, labels = task(n, classes)
    said = logits.argmax(1)
    names = list(range(classes))
    got = values_of(logits, labels)
    assert got["accuracy"] == pytest.approx((said == labels).float().mean().item())
    assert got["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, said))
    assert got["macro_f1"] == pytest.approx(f1_score(labels, said, average="macro"))
    assert got["nll"] == pytest.approx(log_loss(labels, logits.double().softmax(1), labels=names))
    confusion = metrics.confusion_matrix(logits, labels)
    assert torch.equal(confusion, torch.from_numpy(reference_confusion(labels, said, labels=names)))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, said, labels=names, zero_division=float("nan")
    )
    ours = metrics.class_scores(confusion)
    for mine, theirs in zip(ours, (recall, precision, f1, support), strict=True):
        torch.testing.assert_close(mine, torch.as_tensor(theirs).double(), equal_nan=True)


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_topk_equals_scikit_learn(k):
    logits, labels = task(200, 7)
    expected = top_k_accuracy_score(labels, logits, k=k, labels=range(7))
    assert topk_accuracy(logits, labels, k) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_topk_is_one_where_k_covers_all_classes(classes):
    logits, labels = task(30, classes, signal=-5.0)
    assert topk_accuracy(logits, labels, 5) == 1.0
    assert topk_accuracy(logits, labels, classes - 1) < 1.0


def test_ties_go_to_the_lowest_class():
    logits = torch.zeros(6, 6)
    labels = torch.arange(6)
    assert [topk_accuracy(logits, labels, k) for k in (1, 2, 5)] == pytest.approx([1 / 6, 2 / 6, 5 / 6])
    assert metrics.confusion_matrix(logits, labels)[:, 0].tolist() == [1] * 6


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 30), classes=st.integers(2, 9), bins=st.integers(2, 12), seed=st.integers(0, 10**6))
def test_equals_slow_loops(n, classes, bins, seed):
    logits, labels = task(n, classes, seed)
    logits = logits.mul(2).round()  # many ties
    expected = slow_values(logits, labels, bins)
    assert values_of(logits, labels, bins) == pytest.approx(expected, abs=1e-9)
    single = {
        "accuracy": topk_accuracy(logits, labels, 1),
        "top5": topk_accuracy(logits, labels, 5),
        "mean_per_class": metrics.mean_per_class_accuracy(logits, labels),
        "macro_f1": metrics.macro_f1(logits, labels),
        "nll": negative_log_likelihood(logits, labels),
        "ece": metrics.expected_calibration_error(logits, labels, bins),
    }
    assert single == pytest.approx(expected, abs=1e-9)


def test_absent_classes_are_left_out():
    logits = torch.tensor([[4.0, 0, 0, 0], [4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 4.0, 0]])
    labels = torch.tensor([0, 0, 1, 1])  # class 2 is only predicted, class 3 does neither
    assert metrics.mean_per_class_accuracy(logits, labels) == pytest.approx((1 + 0.5) / 2)
    assert metrics.macro_f1(logits, labels) == pytest.approx((1 + 2 / 3 + 0) / 3)
    scores = metrics.class_scores(metrics.confusion_matrix(logits, labels))
    assert scores.recall.isnan().tolist() == [False, False, True, True]
    assert scores.precision.isnan().tolist() == [False, False, False, True]
    assert scores.f1.isnan().tolist() == [False, False, False, True]
    assert scores.support.tolist() == [2, 2, 0, 0]


def test_perfect_and_constant_predictors():
    labels = torch.arange(4).repeat(5)
    perfect = 100 * torch.eye(4)[labels]
    assert values_of(perfect, labels) == pytest.approx(
        {"accuracy": 1, "top5": 1, "mean_per_class": 1, "macro_f1": 1, "nll": 0, "ece": 0}, abs=1e-12
    )
    constant = torch.zeros(20, 4)
    constant[:, 2] = 100
    assert values_of(constant, labels) == pytest.approx(
        {"accuracy": 0.25, "top5": 1, "mean_per_class": 0.25, "macro_f1": 0.1, "nll": 75, "ece": 0.75}
    )


def test_one_sample():
    logits, labels = torch.tensor([[0.0, math.log(3)]]), torch.tensor([0])
    assert values_of(logits, labels) == pytest.approx(
        {"accuracy": 0, "top5": 1, "mean_per_class": 0, "macro_f1": 0, "nll": math.log(4), "ece": 0.75}
    )
    intervals = metrics.bootstrap_intervals(logits, labels, bins=15, resamples=100, seed=0)
    assert intervals["nll"] == pytest.approx((math.log(4), math.log(4)))


def test_reliability_bins_by_hand():
    chance = torch.tensor([0.6, 0.75, 0.8, 0.95])
    logits = torch.stack([chance, 1 - chance], 1).double().log()
    confidence, accuracy, counts = metrics.reliability_bins(logits, torch.tensor([0, 1, 0, 0]), 4)
    assert counts.tolist() == [0, 0, 2, 2]  # 0.75 belongs to the bin that it ends
    torch.testing.assert_close(confidence[2:], torch.tensor([0.675, 0.875], dtype=torch.float64))
    assert accuracy[2:].tolist() == [0.5, 1.0]
    assert confidence[:2].isnan().all()
    assert accuracy[:2].isnan().all()


def test_huge_scores_stay_finite():
    logits, labels = torch.tensor([[3e38, -3e38], [1e-30, 0.0]]), torch.tensor([0, 1])
    assert all(math.isfinite(value) for value in values_of(logits, labels).values())


@pytest.mark.parametrize(
    ("n", "classes", "present"), [(12, 2, None), (25, 6, None), (30, 9, 4), (1, 3, None)]
)
def test_resampled_numbers_equal_those_of_the_drawn_samples(n, classes, present):
    logits, labels = task(n, classes, present=present)
    counts = metrics.resample_counts(n, 8, torch.Generator().manual_seed(3))
    assert counts.sum(0).tolist() == [n] * 8
    got = metrics.headline(metrics.sample_scores(logits, labels, 10), counts)
    assert tuple(got) == metrics.HEADLINE
    for r in range(8):
        drawn = torch.arange(n).repeat_interleave(counts[:, r].long())
        expected = slow_values(logits[drawn], labels[drawn], 10)
        assert {name: value[r].item() for name, value in got.items()} == pytest.approx(expected, abs=1e-9)


def test_resample_counts_are_a_fair_multinomial():
    counts = metrics.resample_counts(20, 5000, torch.Generator().manual_seed(0))
    assert counts.mean(1) == pytest.approx(torch.ones(20).numpy(), abs=0.07)  # 5 standard errors
    assert counts.var(1) == pytest.approx(torch.full((20,), 0.95).numpy(), abs=0.13)


def test_interval_of_accuracy_is_the_binomial_one():
    n, rate = 400, 0.8
    labels = torch.zeros(n, dtype=torch.int64)
    logits = torch.zeros(n, 2)
    logits[:, 1] = torch.where(torch.arange(n) < rate * n, -1.0, 1.0)
    low, high = metrics.bootstrap_intervals(logits, labels, bins=10, resamples=4000, seed=1)["accuracy"]
    half = 1.96 * math.sqrt(rate * (1 - rate) / n)
    assert (low, high) == pytest.approx((rate - half, rate + half), abs=0.004)


def test_intervals_enclose_the_values_and_repeat():
    logits, labels = task(150, 5)
    values = values_of(logits, labels, bins=5)
    runs = [
        metrics.bootstrap_intervals(logits, labels, bins=5, resamples=300, seed=seed) for seed in (7, 7, 8)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert tuple(runs[0]) == metrics.HEADLINE
    for name in ("accuracy", "mean_per_class", "macro_f1", "nll"):
        low, high = runs[0][name]
        assert low < values[name] < high
    assert runs[0]["top5"] == (1.0, 1.0)


def test_intervals_drawn_in_chunks_are_quantiles_of_all(monkeypatch):
    logits, labels = task(50, 3)
    monkeypatch.setattr(metrics, "CHUNK", 50 * 7)
    got = metrics.bootstrap_intervals(logits, labels, bins=5, resamples=20, seed=2)
    draws = torch.Generator().manual_seed(2)
    scores = metrics.sample_scores(logits, labels, 5)
    parts = [metrics.headline(scores, metrics.resample_counts(50, size, draws))["nll"] for size in (7, 7, 6)]
    values = sorted(itertools.chain.from_iterable(part.tolist() for part in parts))
    # Linear interpolation between order statistics: positions 0.025 * 19 and 0.975 * 19.
    assert got["nll"][0] == pytest.approx(values[0] + 0.475 * (values[1] - values[0]))
    assert got["nll"][1] == pytest.approx(values[18] + 0.525 * (values[19] - values[18]))
