"""The page names what was read, what was not, and what is odd."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drtune.cli.page import data_page, left_out
from drtune.params import load
from drtune.sources.ingest import describe, survey
from drtune.sources.settings import DataSettings

SHIPPED = load(Path(__file__).resolve().parents[2] / "params.yaml")[DataSettings]


def settings(root, **changes):
    values = {"shots": None, "val_fraction": 0.2, "test_fraction": 0.2, "on_bad_image": "skip"}
    return SHIPPED.model_copy(update={"source": str(root), **values, **changes})


@pytest.fixture
def zoo(tmp_path):
    """Two classes of pictures of two sizes, one picture in both, a broken file."""
    draws = np.random.default_rng(0)
    for name in ("ant", "<bee>"):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for number in range(6):
            pixels = draws.integers(0, 256, (8, 12 + number // 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "zoo" / name / f"{number}.png")
    (tmp_path / "zoo/ant/copy.png").write_bytes((tmp_path / "zoo/<bee>/0.png").read_bytes())
    (tmp_path / "zoo/ant/cut.png").write_bytes((tmp_path / "zoo/ant/0.png").read_bytes()[:80])
    return tmp_path / "zoo"


def page_of(root, left=None, **changes):
    found = survey(settings(root, **changes), root.parent)
    card = describe(settings(root, **changes), found, {})
    return data_page(settings(root, **changes), found, card, left or {}), found, card


def rows_of(page, title):
    """The cells of the tables below a heading, as text."""
    part = page.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(<td.*?)</tr>", part)]


def test_it_counts_splits_classes_and_sizes(zoo):
    page, _, card = page_of(zoo)
    assert "13 images in 2 classes; read from" in page
    assert rows_of(page, "Splits") == [
        [part, str(card.counts[part]), "2", str(min(card.per_class[part])), str(max(card.per_class[part]))]
        for part in ("train", "val", "test")
    ]
    names = [row[0] for row in rows_of(page, "Classes")]
    assert names == ["&lt;bee&gt;", "ant"]
    assert [row[1:4] for row in rows_of(page, "Classes")] == [
        [str(card.per_class[part][label]) for part in card.counts] for label in range(2)
    ]
    files = dict(rows_of(page, "Files"))
    assert files["pixels as stored"] == "RGB (13)"
    assert files["width"] == "12 to 13 px, median 12"
    assert files["height"] == "8 px"
    assert files["largest"].endswith("5.png: 13 x 8 px")
    assert "colour profiles" not in page
    assert "groups" not in page


def test_it_names_what_is_wrong(zoo):
    page, _, card = page_of(zoo)
    assert rows_of(page, "Files that cannot be used") == [["ant/cut.png", card.skipped[0].reason]]
    assert "cannot be decoded" in card.skipped[0].reason
    assert rows_of(page, "Equal images in several classes: 1") == [["&lt;bee&gt;/0.png = ant/copy.png"]]
    for warning in card.warnings:
        assert warning.replace("<bee>", "&lt;bee&gt;") in page
    assert "dvc repro will stop" not in page
    found = survey(settings(zoo), zoo.parent)
    stops = settings(zoo, on_bad_image="error")
    assert "dvc repro will stop" in data_page(stops, found, describe(stops, found, {}), {})


def test_the_sheet_shows_training_images_alone_as_they_are_read(zoo):
    page, found, _ = page_of(zoo, colour="grey")
    sheet = page.split("as they are read")[1].split("<h2>")[0]
    shown = re.findall(r'title="([^"]*)" alt="[^"]*" src="data:image/jpeg;base64,([^"]*)"', sheet)
    train = {row.id.replace("<bee>", "&lt;bee&gt;") for row in found.division.parts["train"]}
    assert {name for name, _ in shown} == train
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[0][1])))).astype(int)
    assert max(pixels.shape[:2]) == 96
    assert np.abs(pixels[..., 0] - pixels[..., 2]).max() <= 2, "grey, as asked"


def test_a_page_without_faults_says_so(tmp_path):
    for place, name in enumerate("ab"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(30):
            Image.new("L", (5, 5), 100 * place + number).save(tmp_path / "set" / name / f"{number}.png")
    page, _, _ = page_of(tmp_path / "set")
    assert "No warnings." in page
    assert "Files that cannot be used" not in page
    assert "image/png" not in page, "no picture of one size"
    assert rows_of(page_of(tmp_path / "set", {".git/": 3})[0], "Not read") == [[".git/", "3"]]


def test_groups_are_shown_where_the_card_has_them(zoo):
    found = survey(settings(zoo), zoo.parent)
    card = describe(settings(zoo), found, {})

    grouped = card.model_copy(update={"groups": {"train": 4, "val": 1, "test": 2}})
    page = data_page(settings(zoo), found, grouped, {})
    assert [row[-1] for row in rows_of(page, "Splits")] == ["4", "1", "2"]


def test_folders_that_were_not_read_are_named_from_outside(tmp_path):
    for name in (
        "ant/0.png",
        "ant/@eaDir/0.png/THUMB.jpg",
        "ant/@eaDir/x",
        ".git/a/b",
        "labels.csv",
        "b.JPG",
        "ant/deep/1.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "ant/two\nlines.png").touch()
    (tmp_path / "up").symlink_to(tmp_path)
    read = ["ant/0.png", "ant/deep/1.png", "ant/two\\nlines.png"]
    assert left_out(tmp_path, read) == {"./": 1, ".git/": 1, "ant/@eaDir/": 2}
