"""Classes and images are judged before anything is written, and every fault is listed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drtune.base.errors import DataError
from drtune.data.card import Skipped
from drtune.params import load
from drtune.sources.checks import check_classes, check_images, listed
from drtune.sources.samples import Sample, png_bytes
from drtune.sources.settings import DataSettings

SETTINGS = load(Path(__file__).resolve().parents[2] / "params.yaml")[DataSettings]
GOOD = png_bytes(np.zeros((2, 2), np.uint8))


def settings(**changes) -> DataSettings:
    return SETTINGS.model_copy(update=changes)


def rows(part: str, **classes: int) -> list[Sample]:
    """So many images of each class; labels in the order ant, bee, cat."""
    return [
        Sample(f"{part}/{name}/{number}.png", "abc".index(name[0]), lambda: GOOD)
        for name, count in classes.items()
        for number in range(count)
    ]


NAMES = ["ant", "bee", "cat"]


def faults(parts, names=NAMES, skipped=0):
    with pytest.raises(DataError) as caught:
        check_classes("zoo", names, parts, skipped)
    return str(caught.value).splitlines()


def test_sound_classes_pass():
    check_classes("zoo", NAMES, {"train": rows("train", ant=3, bee=3, cat=3)})
    full = {part: rows(part, ant=1, bee=1, cat=1) for part in ("train", "val", "test")}
    check_classes("zoo", NAMES, {**full, "ood/sketch": rows("ood", bee=1)})


def test_one_class():
    assert faults({"train": rows("train", ant=5)}, ["ant"]) == [
        "zoo: 1 fault in its classes",
        "  only one class (ant); at least two are needed",
    ]


def test_empty_class():
    assert faults({"train": rows("train", ant=5, cat=5)})[1:] == [
        "  bee: no images",
        "add images, or remove the class from every part",
    ]


@pytest.mark.parametrize(
    ("evaluation", "needed"), [((), "3 are needed, one for each of train, val, test"), (("test",), "2 are")]
)
def test_class_too_small_for_its_cuts(evaluation, needed):
    parts = {part: rows(part, ant=1, bee=1, cat=1) for part in evaluation}
    found = faults({"train": rows("train", ant=5, bee=1, cat=3), **parts})
    assert len(found) == 3
    assert found[1].startswith(f"  bee: 1 image; at least {needed}")


def test_classes_that_differ_between_parts():
    parts = {"train": rows("train", ant=5, bee=5), "test": rows("test", ant=2, cat=1)}
    assert faults(parts)[1:-1] == [
        "  bee: no images in test, but 5 in train",
        "  cat: no images in train, but 1 in test",
    ]


def test_ood_may_lack_a_class_but_not_have_one_more():
    parts = {part: rows(part, ant=3, bee=3) for part in ("train", "val", "test")}
    assert faults({**parts, "ood/sketch": rows("ood", cat=2)})[1:-1] == [
        "  cat: no images in train, but 2 in ood/sketch"
    ]
    check_classes("zoo", NAMES[:2], {**parts, "ood/sketch": rows("ood", ant=2)})
    assert "  ood/sketch: holds no images" in faults({**parts, "ood/sketch": []}, NAMES[:2])


def test_skipping_is_mentioned():
    found = faults({"train": rows("train", ant=5, cat=5)}, skipped=4)
    assert found[0] == "zoo: 1 fault in its classes after skipping 4 bad images"


def test_long_lists_are_cut():
    lines = listed([str(number) for number in range(25)]).splitlines()
    assert (len(lines), lines[19], lines[20]) == (21, "  19", "  ... and 5 more")
    assert listed(["a"]) == "  a"


def bad_rows() -> list[Sample]:
    def missing() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    return [
        Sample("cat/empty.jpg", 2, lambda: b""),
        Sample("cat/gone.jpg", 2, missing),
        Sample("cat/\udcff.jpg", 2, lambda: GOOD),
        Sample("cat/notes.txt", 2, lambda: b"hello"),
    ]


def test_all_bad_images_are_named():
    calls = []
    with pytest.raises(DataError) as caught:
        check_images(
            "zoo", {"train": rows("t", ant=2) + bad_rows()}, settings(), lambda *call: calls.append(call)
        )
    assert str(caught.value).splitlines() == [
        "zoo: 4 images that cannot be used",
        "  cat/empty.jpg: empty file (0 bytes)",
        "  cat/gone.jpg: cannot be read: No such file or directory",
        "  cat/?.jpg: its name is not valid UTF-8; rename it",
        "  cat/notes.txt: not an image (or cut off within its header)",
        "mend or remove them, or set data.on_bad_image: skip",
    ]
    assert calls == [(done, 6) for done in range(1, 7)]


def test_two_images_of_one_id_are_refused():
    with pytest.raises(DataError, match="zoo: two images are called t/ant/0.png; rename one"):
        check_images("zoo", {"train": rows("t", ant=2), "test": rows("t", ant=1)}, "error", None)


def test_bad_images_are_left_out_on_request():
    stream = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(stream, format="JPEG")
    cmyk = Sample("bee/1.jpg", 1, stream.getvalue)
    parts = {"train": rows("t", ant=2) + bad_rows() + [cmyk], "test": rows("e", ant=1)}
    checked = check_images("zoo", parts, settings(on_bad_image="skip"), None)
    assert [row.id for row in checked.parts["train"]] == ["t/ant/0.png", "t/ant/1.png", "bee/1.jpg"]
    assert [row.id for row in checked.parts["test"]] == ["e/ant/0.png"]
    assert checked.counts("mode") == {"CMYK": 1, "L": 3}
    assert checked.counts("profile") == {}
    assert [item.id for item in checked.skipped] == [row.id.replace("\udcff", "?") for row in bad_rows()]
    assert checked.skipped[0] == Skipped(id="cat/empty.jpg", reason="empty file (0 bytes)")
    assert checked.digests["t/ant/0.png"] == checked.digests["e/ant/0.png"] != checked.digests["bee/1.jpg"]
