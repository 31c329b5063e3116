import pytest
import torch
from PIL import Image

from drtune.backbones.predictions import Predictions
from drtune.evaluation.pictures import reports
from drtune.evaluation.pictures.reports import draw_reports
from drtune.evaluation.pictures.style import message
from drtune.evaluation.settings import EvaluateSettings

NAMES = ("confusion_matrix", "feature_map", "learning_curves", "per_class", "reliability", "worst_mistakes")

SETTINGS = EvaluateSettings(
    batch_size=8,
    bootstrap=100,
    calibration_bins=10,
    worst=4,
    corruptions=[],
    severities=[1],
    seed=0,
)


def predictions_of(n=30, classes=3, signal=1.0):
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (n,), generator=draws)
    logits = torch.randn(n, classes, generator=draws) + signal * torch.eye(classes)[labels]
    return Predictions(torch.randn(n, 5, generator=draws), logits, labels, 100 + torch.arange(n))


def image(row):
    return Image.new("L", (8, 8), row)


def draw(folder, predictions, worst=4, look_up=image, further=None):
    draw_reports(
        folder,
        predictions,
        ["a", "b", "c"],
        SETTINGS.model_copy(update={"worst": worst}),
        split="test",
        pretrained=predictions.features.flip(1),
        image=look_up,
        history=[{"epoch": 1, "train_loss": 1.0, "val_accuracy": 0.5}],
        selected_epoch=1,
        further={} if further is None else further,
    )


@pytest.mark.parametrize("n", [1, 30])
def test_draws_all_pictures(n, tmp_path):
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "stale.png").touch()
    draw(folder, predictions_of(n))
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.png" for name in NAMES]
    for path in folder.iterdir():
        with Image.open(path) as picture:
            picture.load()


def test_further_pictures_stand_beside(tmp_path):
    draw(tmp_path / "reports", predictions_of(), further={"robustness": message("hello")})
    assert {path.stem for path in (tmp_path / "reports").iterdir()} == {*NAMES, "robustness"}


def test_a_failure_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "old.png").touch()

    def broken(row):
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        draw(folder, predictions_of(), look_up=broken)
    assert [path.name for path in folder.iterdir()] == ["old.png"]
    assert list(tmp_path.iterdir()) == [folder]


def test_sheet_shows_the_most_confident_mistakes_by_row():
    labels = torch.tensor([0, 1, 2, 0, 1])
    chosen = torch.tensor([1, 1, 0, 1, 2])  # all wrong but the second
    scale = torch.tensor([2.0, 9.0, 3.0, 2.0, 1.0])
    logits = torch.eye(3)[chosen] * scale[:, None]
    predictions = Predictions(logits, logits, labels, torch.tensor([10, 20, 30, 40, 50]))
    asked = []

    def look_up(row):
        asked.append(row)
        return image(row)

    figure = reports.mistakes_sheet(predictions, ["a", "b", "c"], 3, look_up, "test")
    assert asked == [30, 10, 40]
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "true: c", "pred: a (91%)", "true: a", "pred: b (79%)", "true: a", "pred: b (79%)",
        "The worst 3 of 4 mistakes, test split, n = 5",
    ]  # fmt: skip


@pytest.mark.parametrize(("signal", "worst", "wrong"), [(100.0, 9, 0), (-100.0, 0, 30)])
def test_sheet_without_tiles(signal, worst, wrong):
    figure = reports.mistakes_sheet(predictions_of(signal=signal), ["a", "b", "c"], worst, image, "test")
    assert f"{wrong} of 30 images of the test split are wrong" in figure.texts[0].get_text()
