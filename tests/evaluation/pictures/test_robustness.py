import numpy as np
import pytest
import torch
from PIL import Image

from drtune.data.packed import PackedSplit, write_split
from drtune.data.transforms import InputSpec
from drtune.evaluation.pictures.robustness import corruption_figures, corruption_sheet, severity_curves
from drtune.evaluation.pictures.style import save
from drtune.evaluation.robustness import summarize
from drtune.evaluation.settings import EvaluateSettings
from drtune.sources.samples import png_bytes

SPEC = InputSpec(8, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
ALL = ["gaussian_noise", "gaussian_blur", "contrast", "jpeg", "fog"]
CLEAN = {"n": 20, "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 1.0}


def scores_of(names, levels):
    """Recognised images fall by 2 of 20 with each severity and by 1 with each further corruption."""
    right = {
        (name, level): (torch.arange(20) < 18 - 2 * level - number).double()
        for number, name in enumerate(names)
        for level in levels
    }
    return {"test": CLEAN, **summarize(right, 100, 0)}


def tiles(names, levels, side=8):
    draws = np.random.default_rng(0)
    return {(n, s): draws.integers(0, 256, (side, side, 3), dtype=np.uint8) for n in names for s in levels}


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_curves_start_at_the_clean_accuracy_and_show_their_mean():
    names, levels = ["fog", "gaussian_noise"], [5, 1, 3]
    figure = severity_curves(scores_of(names, levels), names, levels, split="test")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["fog: mean 60.0%", "gaussian noise: mean 55.0%"]
    fog, noise = lines.values()
    assert fog.get_ydata() == pytest.approx([90, 80, 60, 40])
    assert noise.get_ydata() == pytest.approx([90, 75, 55, 35])
    assert fog.get_xdata() == pytest.approx([0, 1, 3, 5], abs=0.1)
    assert fog.get_color() != noise.get_color()
    assert fog.get_marker() != noise.get_marker()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "1", "3", "5"]
    assert figure.get_suptitle() == (
        "Robustness, test split, n = 20\naccuracy 90.0%, mean under corruption 57.5%"
    )


def test_intervals_stand_on_their_points():
    scores = scores_of(["jpeg"], [2])
    (axes,) = severity_curves(scores, ["jpeg"], [2], split="test").axes
    bars = [bar.get_segments()[0] for bar in axes.collections]
    values = scores["corrupted/jpeg/2"]
    expected = [[2, 100 * values["accuracy_low"]], [2, 100 * values["accuracy_high"]]]
    np.testing.assert_allclose(bars, [expected, [[0, 80], [0, 100]]])


def test_sheet_has_a_row_a_corruption_that_starts_clean():
    clean, corrupted = np.zeros((8, 8, 3), np.uint8), tiles(["fog", "gaussian_blur"], [4, 2])
    figure = corruption_sheet(clean, corrupted, split="test")
    (axes,) = figure.axes
    assert words(axes) == [
        "clean", "fog 2", "fog 4", "clean", "gaussian blur 2", "gaussian blur 4",
        "First image of the test split, corrupted",
    ]  # fmt: skip
    shown = [image.get_array() for image in axes.images]
    assert len(shown) == 6
    assert (shown[0] == 0).all()
    assert (shown[1][::30, ::30] == corrupted["fog", 2]).all()
    assert (shown[5][::30, ::30] == corrupted["gaussian_blur", 4]).all()


@pytest.mark.parametrize(
    ("names", "levels", "size"), [(ALL, [1, 2, 3, 4, 5], (1597, 1627)), (["fog"], [3], (750, 397))]
)
def test_files(names, levels, size, tmp_path):
    sheet = corruption_sheet(np.zeros((8, 8, 3), np.uint8), tiles(names, levels), split="test")
    curves = severity_curves(scores_of(names, levels), names, levels, split="test")
    for name, figure, expected in (("sheet", sheet, size), ("curves", curves, (1050, 660))):
        save(figure, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            picture.load()
            assert picture.size == expected


def test_both_pictures_or_none(tmp_path):
    write_split(tmp_path / "test.arrow", [("a", png_bytes(np.full((9, 9, 3), 77, np.uint8)), 0)])
    settings = EvaluateSettings(
        batch_size=4,
        bootstrap=100,
        calibration_bins=10,
        worst=4,
        corruptions=["jpeg", "fog"],
        severities=[1, 5],
        seed=0,
    )
    split, scores = PackedSplit(tmp_path / "test.arrow"), scores_of(["jpeg", "fog"], [1, 5])
    first, again = (corruption_figures(scores, split, SPEC, settings, name="test") for _ in range(2))
    assert list(first) == ["robustness", "corruptions"]
    for name in first:
        save(first[name], tmp_path / "a.png")
        save(again[name], tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    none = settings.model_copy(update={"corruptions": []})
    assert corruption_figures({}, split, SPEC, none, name="test") == {}
