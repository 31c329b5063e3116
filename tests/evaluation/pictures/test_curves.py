import math

import pytest
import torch
from PIL import Image

from drtune.evaluation import metrics
from drtune.evaluation.pictures.curves import learning_curves, reliability_diagram
from drtune.evaluation.pictures.style import save


def size_of(figure, folder):
    """Save a drawing and return its width and height in pixels."""
    save(figure, folder / "picture.png")
    with Image.open(folder / "picture.png") as image:
        image.load()
        return image.size


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def history_of(epochs, terms=("cross_entropy", "dr_tune")):
    return [
        {
            "epoch": epoch,
            "train_loss": 2.0 / epoch,
            **{f"loss/{term}": 1.0 / epoch for term in terms},
            "train_accuracy": 1 - 0.5 / epoch,
            "val_accuracy": 0.9 - 0.5 / epoch,
            "val_loss": 3.0 / epoch,
            "lr_backbone": 0.0 if epoch == epochs else 0.01,
            "lr_head": 0.3 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def bins_of(n, count=10):
    draws = torch.Generator().manual_seed(n)
    logits, labels = 3 * torch.randn(n, 4, generator=draws), torch.randint(4, (n,), generator=draws)
    return metrics.reliability_bins(logits, labels, count)


def test_reliability_diagram_draws_accuracy_gap_and_histogram():
    bins = metrics.ReliabilityBins(
        torch.tensor([math.nan, 0.4, 0.6, 0.9], dtype=torch.float64),
        torch.tensor([math.nan, 0.5, 0.5, 0.9], dtype=torch.float64),
        torch.tensor([0, 10, 10, 20]),
    )
    figure = reliability_diagram(bins, 0.05, split="test")
    top, bottom = figure.axes
    accuracy, gap = top.containers
    assert [bar.get_height() for bar in accuracy] == [0.5, 0.5, 0.9]
    assert [bar.get_height() for bar in gap] == pytest.approx([-0.1, 0.1, 0])
    assert [bar.get_height() for bar in bottom.patches] == [0, 25, 25, 50]
    assert [bar.get_x() + bar.get_width() / 2 for bar in bottom.patches] == [0.125, 0.375, 0.625, 0.875]
    assert legend_of(bottom) == ["mean confidence: 0.700", "accuracy: 0.700"]
    title = "Reliability, test split, n = 40\nexpected calibration error 0.050"
    assert figure.get_suptitle() == title


@pytest.mark.parametrize(("n", "count"), [(1, 2), (5000, 50)])
def test_reliability_diagram_file(n, count, tmp_path):
    assert size_of(reliability_diagram(bins_of(n, count), 0.1, split="test"), tmp_path) == (900, 990)


def test_learning_curves_of_two_terms():
    history = history_of(6)
    figure = learning_curves(history, 4)
    assert figure.get_suptitle() == "Learning curves, 6 epochs"
    assert [axes.get_title() for axes in figure.axes] == [
        "Loss", "Terms of the training loss", "Accuracy", "Learning rate",
    ]  # fmt: skip
    loss, terms, accuracy, rates = figure.axes
    assert legend_of(loss) == ["train", "val", "kept: epoch 4"]
    assert legend_of(terms) == ["cross_entropy", "dr_tune", "kept: epoch 4"]
    assert accuracy.lines[1].get_ydata() == pytest.approx([100 * row["val_accuracy"] for row in history])
    assert loss.lines[0].get_xdata() == pytest.approx(range(1, 7))
    assert list(loss.lines[2].get_xdata()) == [4, 4]
    assert rates.get_yscale() == "log"


def test_a_standard_error_is_a_band_around_its_curve():
    history = [record | {"val_accuracy_se": 0.02 * record["epoch"]} for record in history_of(3)]
    loss, _, accuracy, _ = learning_curves(history, 3).axes
    assert legend_of(accuracy)[1:] == ["val", "val ± one standard error", "kept: epoch 3"]
    (band,) = accuracy.collections
    for epoch, record in enumerate(history, 1):
        ends = {round(y, 6) for x, y in band.get_paths()[0].vertices if x == epoch}
        assert ends == {round(100 * record["val_accuracy"] + sign * 2 * epoch, 6) for sign in (-1, 1)}
    assert not loss.collections


def test_a_gap_in_a_curve_is_a_gap_in_its_band():
    history = [record | {"val_accuracy_se": 0.02} for record in history_of(3)]
    history[1] |= {"val_accuracy": None, "val_accuracy_se": None}
    _, _, accuracy, _ = learning_curves(history, None).axes
    (band,) = accuracy.collections
    assert {x for path in band.get_paths() for x, _ in path.vertices} == {1, 3}


def test_one_term_needs_no_panel():
    figure = learning_curves(history_of(3, terms=("cross_entropy",)), None)
    assert [axes.get_title() for axes in figure.axes] == ["Loss", "Accuracy", "Learning rate"]
    assert legend_of(figure.axes[0]) == ["train", "val"]


def test_missing_numbers_leave_gaps_and_unknown_ones_are_ignored():
    history = [
        {"epoch": 1, "train_loss": 1.0, "seconds": 3},
        {"epoch": 2, "train_loss": None, "lr_head": 0.1, "lr_backbone": 0.1},
    ]
    loss, accuracy, rates = learning_curves(history, 2).axes
    assert legend_of(loss) == ["train", "kept: epoch 2"]
    assert math.isnan(loss.lines[0].get_ydata()[1])
    assert legend_of(accuracy) == ["kept: epoch 2"]
    assert rates.get_yscale() == "linear"


def test_a_term_is_drawn_with_its_weight_and_nothing_else_is():
    plain, weighted = history_of(3), [record | {"weight/dr_tune": 0.25} for record in history_of(3)]
    before, after = (
        {
            (panel.get_title(), line.get_label()): line.get_ydata()
            for panel in figure.axes
            for line in panel.lines
        }
        for figure in (learning_curves(plain, None), learning_curves(weighted, None))
    )
    changed = [name for name in before if list(before[name]) != list(after[name])]
    assert changed == [("Terms of the training loss", "dr_tune")]
    assert list(after[changed[0]]) == pytest.approx([0.25 * value for value in before[changed[0]]])


def test_no_history_says_so():
    assert "No epoch was trained" in learning_curves([], None).texts[0].get_text()


@pytest.mark.parametrize(("epochs", "size"), [(0, (900, 300)), (1, (1500, 1080)), (40, (1500, 1080))])
def test_learning_curves_file(epochs, size, tmp_path):
    assert size_of(learning_curves(history_of(epochs), epochs or None), tmp_path) == size


def test_equal_data_give_equal_bytes(tmp_path):
    for draw in (
        lambda: reliability_diagram(bins_of(20), 0.1, split="test"),
        lambda: learning_curves(history_of(2, terms=()), 2),
    ):
        save(draw(), tmp_path / "a.png")
        save(draw(), tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_start_before_training_is_a_point():
    records = [{"epoch": 0, "val_loss": 0.9}, {"epoch": 1, "val_loss": 0.5}]
    figure = learning_curves(records, selected_epoch=0)
    assert figure.get_suptitle() == "Learning curves, 1 epoch"
    loss = figure.axes[0]
    assert [line.get_xdata().tolist() for line in loss.lines if line.get_label() == "val"] == [[0, 1]]
