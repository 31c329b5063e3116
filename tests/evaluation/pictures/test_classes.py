import pytest
import torch
from PIL import Image

from drtune.evaluation.pictures.classes import confusion_matrix, per_class_bars
from drtune.evaluation.pictures.style import save


def names(count):
    return [f"class {c}" for c in range(count)]


def counts(classes, seed=0):
    """A confusion matrix with most images on its diagonal."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (classes, classes), generator=draws) + 20 * torch.eye(
        classes, dtype=torch.int64
    )


def cells(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def size_of(figure, folder):
    """Save a drawing and return its width and height in pixels."""
    save(figure, folder / "picture.png")
    with Image.open(folder / "picture.png") as image:
        image.load()
        return image.size


def test_confusion_matrix_shows_its_counts():
    matrix = torch.tensor([[7, 1, 0], [2, 5, 1], [0, 0, 4]])
    figure = confusion_matrix(matrix, ["cat", "$dog$", "_owl"], split="test")
    assert cells(figure) == ["7", "1", "0", "2", "5", "1", "0", "0", "4"]
    axes = figure.axes[0]
    assert labels_of(axes.xaxis) == labels_of(axes.yaxis) == ["cat", "$dog$", "_owl"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert figure.get_suptitle() == "Confusion matrix, test split, n = 20\n16 right (80.0%)"
    shares = axes.images[0].get_array()
    assert shares[1].tolist() == [25, 62.5, 12.5]


def test_confusion_matrix_leaves_rows_without_images_blank():
    matrix = torch.tensor([[3, 1], [0, 0]])
    shares = confusion_matrix(matrix, ["a", "b"], split="test").axes[0].images[0].get_array()
    assert shares.mask.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize(
    ("classes", "numbers", "ticks"),
    [(2, 4, 2), (20, 400, 20), (21, 0, 21), (50, 0, 50), (51, 0, 26), (200, 0, 40)],
)
def test_confusion_matrix_thins_out_with_many_classes(classes, numbers, ticks):
    figure = confusion_matrix(counts(classes), names(classes), split="test")
    assert len(cells(figure)) == numbers
    shown = labels_of(figure.axes[0].yaxis)
    assert len(shown) == ticks
    assert shown[0] == "class 0"
    assert ("is named)" in figure.axes[0].get_ylabel()) == (ticks < classes)


@pytest.mark.parametrize(("classes", "size"), [(2, (780, 630)), (100, (1800, 1650))])
def test_confusion_matrix_file(classes, size, tmp_path):
    assert size_of(confusion_matrix(counts(classes), names(classes), split="test"), tmp_path) == size


def test_bars_are_sorted_from_the_worst_and_leave_out_absent_classes():
    accuracy = torch.tensor([0.9, float("nan"), 0.25, 1.0], dtype=torch.float64)
    figure = per_class_bars(accuracy, torch.tensor([10, 0, 4, 3]), ["a", "b", "c" * 40, "_d"], split="test")
    axes = figure.axes[0]
    assert labels_of(axes.yaxis) == [f"{'c' * 12}…{'c' * 11} (4)", "a (10)", "_d (3)"]
    assert [bar.get_width() for bar in axes.patches] == [25, 90, 100]
    assert cells(figure) == ["25.0", "90.0", "100.0"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first bar is on top
    title = "Accuracy of each class, test split, n = 17\n1 of 4 classes have no image and are left out"
    assert figure.get_suptitle() == title
    assert figure.legends[0].get_texts()[0].get_text() == "mean over classes: 71.7%"


def test_bars_of_many_classes_show_both_ends():
    accuracy = torch.arange(61).double() / 100
    figure = per_class_bars(accuracy, torch.full((61,), 5), names(61), split="test")
    widths = [round(bar.get_width()) for bar in figure.axes[0].patches]
    assert widths == [*range(30), *range(51, 61)]
    assert "… 21 classes between, not drawn …" in cells(figure)
    sixty = per_class_bars(accuracy[:60], torch.full((60,), 5), names(60), split="test")
    assert len(sixty.axes[0].patches) == 60
    assert not any("not drawn" in text for text in cells(sixty))


@pytest.mark.parametrize(("classes", "height"), [(1, 450), (200, 1725)])
def test_bars_file(classes, height, tmp_path):
    figure = per_class_bars(
        torch.linspace(0, 1, classes), torch.full((classes,), 3), names(classes), split="test"
    )
    assert size_of(figure, tmp_path) == (1125, height)


def test_equal_data_give_equal_bytes(tmp_path):
    accuracy, support = torch.tensor([0.5, 0.75]), torch.tensor([4, 8])
    for draw in (
        lambda: confusion_matrix(counts(3), names(3), split="test"),
        lambda: per_class_bars(accuracy, support, names(2), split="test"),
    ):
        save(draw(), tmp_path / "a.png")
        save(draw(), tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
