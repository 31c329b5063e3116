"""Measures of a classifier, from its class scores and the true labels.

Letters: N samples, C classes, R resamples, M bins. Everywhere `logits` are [N, C] and `labels` [N] int64 in
0 … C - 1, N >= 1, both on the CPU. Sums are taken in float64. Where several classes share the highest score,
the one with the lowest index is the prediction, and ranks follow the same rule.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from drtune.backbones.predictions import in_topk, sample_nll

HEADLINE = ("accuracy", "top5", "mean_per_class", "macro_f1", "nll", "ece")
"""The numbers that are reported with an interval, in the order in which they are printed."""

INTERVAL = (0.025, 0.975)  # the ends of a 95 % percentile interval
CHUNK = 4_000_000  # counts drawn at once in a bootstrap: 32 MB in float64


class ClassScores(NamedTuple):
    """Measures of each class, [C] float64 (or [C, R], one column a resample); NaN where undefined.

    Attributes:
        recall: the share of a class's samples that is recognised, which is its accuracy; NaN without samples.
        precision: the share of right ones among the predictions of a class; NaN where never predicted.
        f1: their harmonic mean, 0 where nothing is right; NaN where a class neither occurs nor is predicted.
        support: number of samples.
    """

    recall: Tensor
    precision: Tensor
    f1: Tensor
    support: Tensor


class ReliabilityBins(NamedTuple):
    """Samples sorted by confidence into M bins of equal width, [M] each; NaN where a bin is empty.

    Attributes:
        confidence: mean probability given to the predicted class, float64.
        accuracy: share of right predictions, float64.
        counts: number of samples, int64.
    """

    confidence: Tensor
    accuracy: Tensor
    counts: Tensor


class SampleScores(NamedTuple):
    """All that the headline numbers need to know of each sample, [N] each.

    Attributes:
        labels, predicted, bin: int64; true class, predicted class, bin of the confidence.
        correct, top5, nll, confidence: float64; the first two are 0 or 1.
        num_classes, num_bins: C and M.
    """

    labels: Tensor
    predicted: Tensor
    bin: Tensor
    correct: Tensor
    top5: Tensor
    nll: Tensor
    confidence: Tensor
    num_classes: int
    num_bins: int


def mean_per_class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur in `labels` of the share that is recognised."""
    return class_scores(confusion_matrix(logits, labels)).recall.nanmean().item()


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Mean F1 over the classes that occur in `labels` or among the predictions.

    This is scikit-learn's `f1_score(average="macro")`: a class that only occurs, or is only predicted,
    counts as 0; a class that does neither is left out.
    """
    return class_scores(confusion_matrix(logits, labels)).f1.nanmean().item()


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int) -> float:
    """Mean distance between confidence and accuracy over `bins` bins, weighted by their counts.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", Eq. 3.
    """
    confidence, accuracy, counts = reliability_bins(logits, labels, bins)
    gap = (confidence - accuracy).abs().nan_to_num()
    return ((gap * counts).sum() / counts.sum()).item()


def reliability_bins(logits: Tensor, labels: Tensor, bins: int) -> ReliabilityBins:
    """Sort samples by the probability of their predicted class into `bins` bins of equal width."""
    scores = sample_scores(logits, labels, bins)
    counts = torch.bincount(scores.bin, minlength=bins)
    confidence = torch.bincount(scores.bin, scores.confidence, minlength=bins) / counts
    accuracy = torch.bincount(scores.bin, scores.correct, minlength=bins) / counts
    return ReliabilityBins(confidence, accuracy, counts)


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Count samples by true class (row) and predicted class (column): [C, C] int64."""
    classes = logits.shape[1]
    cells = labels * classes + logits.argmax(1)
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)


def class_scores(confusion: Tensor) -> ClassScores:
    """Measures of each class from a confusion matrix [C, C] with true classes in rows."""
    return class_scores_of(confusion.diagonal(), confusion.sum(1), confusion.sum(0))


def class_scores_of(right: Tensor, support: Tensor, predicted: Tensor) -> ClassScores:
    """Measures of each class from its numbers of right predictions, of samples and of predictions."""
    right, support, predicted = right.double(), support.double(), predicted.double()
    return ClassScores(right / support, right / predicted, 2 * right / (support + predicted), support)


def sample_scores(logits: Tensor, labels: Tensor, bins: int) -> SampleScores:
    """Reduce class scores to what the headline numbers need of each sample.

    Bin m holds the confidences in (m / M, (m + 1) / M], as in Guo et al. 2017.
    """
    confidence = logits.double().softmax(1).amax(1)
    predicted = logits.argmax(1)
    return SampleScores(
        labels=labels,
        predicted=predicted,
        bin=((confidence * bins).ceil().long() - 1).clamp(0, bins - 1),
        correct=(predicted == labels).double(),
        top5=in_topk(logits, labels, 5),
        nll=sample_nll(logits, labels),
        confidence=confidence,
        num_classes=logits.shape[1],
        num_bins=bins,
    )


def headline(scores: SampleScores, counts: Tensor) -> dict[str, Tensor]:
    """Every headline number, [R] float64 each, of R samples drawn from N with the given counts.

    Args:
        scores: of the N samples.
        counts: [N, R] float64, how often each sample was drawn; each column sums to N. One column of ones
            gives the numbers of the samples themselves.
    """
    total = counts.sum(0)
    right = counts * scores.correct[:, None]
    per_class = class_scores_of(
        grouped(right, scores.labels, scores.num_classes),
        grouped(counts, scores.labels, scores.num_classes),
        grouped(counts, scores.predicted, scores.num_classes),
    )
    excess = grouped(counts * (scores.confidence - scores.correct)[:, None], scores.bin, scores.num_bins)
    return {
        "accuracy": right.sum(0) / total,
        "top5": scores.top5 @ counts / total,
        "mean_per_class": per_class.recall.nanmean(0),
        "macro_f1": per_class.f1.nanmean(0),
        "nll": scores.nll @ counts / total,
        "ece": excess.abs().sum(0) / total,
    }


def grouped(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sum the rows of `values` [N, R] that share a `group` [N]: [groups, R]."""
    return values.new_zeros(groups, values.shape[1]).index_add_(0, group, values)


def bootstrap_intervals(
    logits: Tensor, labels: Tensor, *, bins: int, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals (low, high) of every headline number.

    Each resample draws N samples with replacement; a class that it does not draw is left out of that
    resample's mean over classes. Equal seeds give equal intervals.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    scores = sample_scores(logits, labels, bins)
    draws = torch.Generator().manual_seed(seed)
    step = max(1, CHUNK // len(labels))
    parts = [
        headline(scores, resample_counts(len(labels), min(step, resamples - start), draws))
        for start in range(0, resamples, step)
    ]
    ends = torch.tensor(INTERVAL, dtype=torch.float64)
    intervals = {}
    for name in HEADLINE:
        low, high = torch.cat([part[name] for part in parts]).quantile(ends).tolist()
        intervals[name] = (low, high)
    return intervals


def resample_counts(n: int, resamples: int, draws: torch.Generator) -> Tensor:
    """How often each of `n` samples is drawn in `n` draws with replacement: [n, resamples] float64."""
    drawn = torch.randint(n, (n, resamples), generator=draws)
    cells = (drawn * resamples + torch.arange(resamples)).flatten()
    return torch.bincount(cells, minlength=n * resamples).view(n, resamples).double()
