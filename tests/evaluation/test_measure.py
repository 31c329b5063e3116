import json
import math

import pytest
import torch
from torch import nn

from drtune.backbones.classifier import Classifier
from drtune.backbones.predictions import Predictions
from drtune.base.errors import DataError, TrainingError
from drtune.data.batch import Batch
from drtune.evaluation import measure as evaluation
from drtune.evaluation import metrics

CPU = torch.device("cpu")


class Encoder(nn.Module):
    """Mean colour, with layers that behave differently in training."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.norm(images)).mean((2, 3))


def model_of(classes=3):
    torch.manual_seed(0)
    return Classifier(Encoder(), 3, classes)


def batches(rows, classes=3, size=4):
    """Batches of images whose content follows from their row, in the order of `rows`."""
    rows = torch.as_tensor(rows)
    images = torch.stack([torch.full((3, 2, 2), float(row)) / 10 for row in rows])
    whole = Batch(images, rows % classes, rows, torch.zeros_like(rows))
    return [Batch(*(column[i : i + size] for column in whole)) for i in range(0, len(rows), size)]


def predictions_of(logits, labels):
    return Predictions(logits, logits, labels, torch.arange(len(labels)))


def test_predicts_in_row_order():
    model = model_of()
    found = evaluation.predict(model, batches([5, 0, 3, 1, 4, 2, 6]), CPU)
    assert found.index.tolist() == list(range(7))
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    model.eval()
    with torch.no_grad():
        features, logits = model(torch.cat([batch.images for batch in batches(range(7))]))
    torch.testing.assert_close(found.features, features)
    torch.testing.assert_close(found.logits, logits)


def test_result_is_ordinary_float32_even_from_a_half_precision_model():
    found = evaluation.predict(
        model_of().bfloat16(), [b._replace(images=b.images.bfloat16()) for b in batches(range(5))], CPU
    )
    assert found.features.dtype == found.logits.dtype == torch.float32
    assert found.labels.dtype == found.index.dtype == torch.int64
    assert not found.logits.is_inference()


@pytest.mark.parametrize("fails", [False, True])
def test_restores_each_training_flag_and_changes_nothing(fails):
    model = model_of()
    model.train()
    model.encoder.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    rows = batches(range(6))
    if fails:
        rows.append(rows[0]._replace(images=torch.zeros(2, 5, 2, 2)))
        with pytest.raises(RuntimeError):
            evaluation.predict(model, rows, CPU)
    else:
        evaluation.predict(model, rows, CPU)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_reports_progress_by_batch():
    seen = []
    evaluation.predict(model_of(), batches(range(9)), CPU, lambda *counts: seen.append(counts))
    evaluation.predict(model_of(), iter(batches(range(5))), CPU, lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3), (1, 0), (2, 0)]


def test_refuses_an_empty_split():
    with pytest.raises(DataError, match="the split holds no image; expected at least 1"):
        evaluation.predict(model_of(), [], CPU)


@pytest.mark.parametrize("label", [-1, 3])
def test_refuses_labels_without_a_class(label):
    rows = batches(range(4))
    rows[0].labels[2] = label
    with pytest.raises(DataError, match=rf"label {label} has no class: the model knows 3 classes, 0 to 2"):
        evaluation.predict(model_of(), rows, CPU)


def test_refuses_scores_that_are_not_finite():
    rows = batches(range(8))
    rows[1].images[1:3] = float("nan")
    with pytest.raises(
        TrainingError, match=r"not finite for 2 of 8 images \(first: row 5\).*lower train\.lr"
    ):
        evaluation.predict(model_of(), rows, CPU)


def test_summary_names_values_and_intervals():
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (80,), generator=draws)
    logits = torch.randn(80, 7, generator=draws) + 2 * torch.eye(7)[labels]
    summary = evaluation.summarize(predictions_of(logits, labels), bootstrap=200, bins=8, seed=5)
    names = ["n"]
    for name in metrics.HEADLINE:
        names += [name, f"{name}_low", f"{name}_high"]
    assert list(summary) == names
    assert summary["n"] == 80
    assert summary["accuracy"] == round(metrics.topk_accuracy(logits, labels, 1), 6)
    assert summary["top5"] == round(metrics.topk_accuracy(logits, labels, 5), 6)
    assert summary["ece"] == round(metrics.expected_calibration_error(logits, labels, 8), 6)
    intervals = metrics.bootstrap_intervals(logits, labels, bins=8, resamples=200, seed=5)
    assert (summary["nll_low"], summary["nll_high"]) == tuple(round(end, 6) for end in intervals["nll"])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert all(type(value) in (int, float) for value in summary.values())


def test_validation_scores():
    logits, labels = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    scores = evaluation.validation_scores(predictions_of(logits, labels))
    assert scores == pytest.approx({"accuracy": 0.5, "accuracy_se": 0.353553, "loss": 0.693147}, abs=1e-6)
    three = predictions_of(torch.tensor([[9.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    assert evaluation.validation_scores(three)["accuracy_se"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
