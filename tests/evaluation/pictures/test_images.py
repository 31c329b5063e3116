import numpy as np
import pytest
from PIL import Image

from drtune.evaluation.pictures import images
from drtune.evaluation.pictures.style import save


def noise(height, width, *channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def sheet(count, mistakes=None, picture=None):
    pictures = [Image.fromarray(noise(8, 8, seed=i)) if picture is None else picture for i in range(count)]
    return images.worst_mistakes(
        pictures,
        ["a very long class name indeed"] * count,
        ["$dog$"] * count,
        [0.987] * count,
        mistakes=count if mistakes is None else mistakes,
        n=100,
        split="test",
    )


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_each_tile_says_truth_and_prediction():
    figure = sheet(2)
    assert words(figure) == 2 * ["true: a very l…e indeed", "pred: $dog$ (99%)"] + [
        "All 2 mistakes, test split, n = 100"
    ]
    assert len(figure.axes[0].images) == 2


@pytest.mark.parametrize(
    ("count", "mistakes", "shown", "title"),
    [
        (1, 1, 1, "The only mistake, test split, n = 100"),
        (7, 7, 7, "All 7 mistakes, test split, n = 100"),
        (5, 9, 5, "The worst 5 of 9 mistakes, test split, n = 100"),
        (40, 50, 36, "The worst 36 of 50 mistakes, test split, n = 100"),
    ],
)
def test_title_counts_what_is_shown(count, mistakes, shown, title):
    figure = sheet(count, mistakes)
    assert len(figure.axes[0].images) == shown
    assert words(figure)[-1] == title


def test_no_mistakes_says_so():
    figure = sheet(0)
    assert figure.texts[0].get_text() == "No mistakes to show: 0 of 100 images of the test split are wrong."


def test_tiny_images_are_enlarged_without_smoothing():
    small = noise(4, 2, 3)
    large = images.fitted(small, 12)
    assert (large == small.repeat(3, 0).repeat(3, 1)).all()


@pytest.mark.parametrize(
    ("shape", "expected"), [((500, 250), (100, 50)), ((3, 900), (1, 100)), ((1, 1), (100, 100))]
)
def test_sizes_fit_the_tile(shape, expected):
    assert images.fitted(noise(*shape), 100).shape == (*expected, 3)


@pytest.mark.parametrize(
    ("count", "shape", "size"),
    [(1, (8, 8), (750, 427)), (7, (40, 300), (1597, 349)), (36, (28, 28), (1597, 2115))],
)
def test_file(count, shape, size, tmp_path):
    save(sheet(count, picture=Image.fromarray(noise(*shape, 3))), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        image.load()
        assert image.size == size


def test_equal_data_give_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        save(sheet(2), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
