import json

import torch

from drtune.backbones.predictions import Predictions, topk_accuracy
from drtune.evaluation import metrics
from drtune.evaluation.measure import summarize


def predictions_of(logits, labels):
    return Predictions(logits, logits, labels, torch.arange(len(labels)))


def test_summary_names_values_and_intervals():
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (80,), generator=draws)
    logits = torch.randn(80, 7, generator=draws) + 2 * torch.eye(7)[labels]
    summary = summarize(predictions_of(logits, labels), bootstrap=200, bins=8, seed=5)
    names = ["n"]
    for name in metrics.HEADLINE:
        names += [name, f"{name}_low", f"{name}_high"]
    assert list(summary) == names
    assert summary["n"] == 80
    assert summary["accuracy"] == round(topk_accuracy(logits, labels, 1), 6)
    assert summary["top5"] == round(topk_accuracy(logits, labels, 5), 6)
    assert summary["ece"] == round(metrics.expected_calibration_error(logits, labels, 8), 6)
    intervals = metrics.bootstrap_intervals(logits, labels, bins=8, resamples=200, seed=5)
    assert (summary["nll_low"], summary["nll_high"]) == tuple(round(end, 6) for end in intervals["nll"])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert all(type(value) in (int, float) for value in summary.values())
