import pytest
import torch
from torch import nn

from drtune.backbones.classifier import Classifier
from drtune.backbones.predictions import predict
from drtune.base.errors import DataError, TrainingError
from drtune.data.batch import Batch

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
    return [Batch(*(column[i : i + size] for column in whole[:4])) for i in range(0, len(rows), size)]


def test_predicts_in_row_order():
    model = model_of()
    found = predict(model, batches([5, 0, 3, 1, 4, 2, 6]), CPU)
    assert found.index.tolist() == list(range(7))
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    model.eval()
    with torch.no_grad():
        features, logits = model(torch.cat([batch.images for batch in batches(range(7))]))
    torch.testing.assert_close(found.features, features)
    torch.testing.assert_close(found.logits, logits)


def test_result_is_ordinary_float32_even_from_a_half_precision_model():
    found = predict(
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
            predict(model, rows, CPU)
    else:
        predict(model, rows, CPU)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_reports_progress_by_batch():
    seen = []
    predict(model_of(), batches(range(9)), CPU, lambda *counts: seen.append(counts))
    predict(model_of(), iter(batches(range(5))), CPU, lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3), (1, 0), (2, 0)]


def test_refuses_an_empty_split():
    with pytest.raises(DataError, match="the split holds no image; expected at least 1"):
        predict(model_of(), [], CPU)


@pytest.mark.parametrize("label", [-1, 3])
def test_refuses_labels_without_a_class(label):
    rows = batches(range(4))
    rows[0].labels[2] = label
    with pytest.raises(DataError, match=rf"label {label} has no class: the model knows 3 classes, 0 to 2"):
        predict(model_of(), rows, CPU)


def test_refuses_scores_that_are_not_finite():
    rows = batches(range(8))
    rows[1].images[1:3] = float("nan")
    with pytest.raises(
        TrainingError, match=r"not finite for 2 of 8 images \(first: row 5\).*lower train\.lr"
    ):
        predict(model_of(), rows, CPU)
