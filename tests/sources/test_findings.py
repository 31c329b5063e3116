"""What is said of sound images: copies in two classes, dark 16-bit files, files of several frames."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drtune.data.card import Leaks
from drtune.data.images import Examination
from drtune.params import load
from drtune.sources.checks import check_images
from drtune.sources.findings import dark_images, find_conflicts, find_leaks, warnings_of
from drtune.sources.samples import Sample
from drtune.sources.settings import DataSettings

SHIPPED = load(Path(__file__).resolve().parents[2] / "params.yaml")[DataSettings]
SETTINGS = SHIPPED.model_copy(update={"frames": "first"})


def sample(name: str, label: int, content: bytes = b"") -> Sample:
    return Sample(name, label, lambda: content)


def test_a_picture_that_stands_in_two_classes_is_counted_once():
    rows = [sample(f"{folder}/{number}", label) for label, folder in enumerate("ab") for number in range(8)]
    digests = {row.id: hashlib.sha256(row.id[2:].encode()).digest() for row in rows}
    digests["b/7"] = b"its own"
    found = find_conflicts({"train": rows[:8], "test": rows[8:]}, digests)
    assert found == Leaks(count=7, examples=tuple(f"a/{number} = b/{number}" for number in range(5)))
    assert find_conflicts({"train": rows[:8]}, digests).count == 0, "copies of one class are no conflict"
    (line,) = warnings_of(
        check_images("zoo", {}, SETTINGS, None), SETTINGS, Leaks(count=0, examples=()), found
    )
    assert line == (
        "images that stand in several classes, byte for byte: 7 "
        "(a/0 = b/0, a/1 = b/1, a/2 = b/2, a/3 = b/3, a/4 = b/4, ...)"
    )


def test_leaks_are_found_across_splits_alone():
    parts = {
        "train": [sample("a", 0), sample("b", 0)],
        "val": [sample("c", 0), sample("d", 0)],
        "test": [sample("e", 0)],
    }
    digests = {"a": b"1", "b": b"1", "c": b"2", "d": b"1", "e": b"2"}
    assert find_leaks(parts, digests) == Leaks(
        count=2, examples=("d (val) = a (train)", "e (test) = c (val)")
    )


def seen(mode: str, top: float) -> Examination:
    return Examination(None, mode, (1, 1), (0.0, top))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([seen("I;16", 4080), seen("I;16", 300), seen("L", 0)._replace(span=None)],
         "grey images of 16 bits: 2, none brighter than 4080 of 65535, which leaves 16 of 256 levels; "
         "state data.value_range: [0, 4095]"),
        ([seen("RGB", 257.0 * 15)],
         "colour images of 16 bits: 1, none brighter than 3855 of 65535, which leaves 16 of 256 levels; "
         "save them with 8 bits, from black to white"),
    ],
)  # fmt: skip
def test_deep_images_that_would_be_black_are_told(images, words):
    assert dark_images(images) == [words]
    assert dark_images([*images, images[0]._replace(span=(0.0, 60000.0))]) == []
    assert dark_images([image._replace(span=None) for image in images]) == []


def test_what_the_files_show_reaches_the_warnings():
    streams = [io.BytesIO() for _ in range(2)]
    frames = [Image.new("L", (4, 4), value) for value in (0, 200)]
    frames[0].save(streams[0], "GIF", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(streams[1], "TIFF")
    rows = [sample(str(place), 0, stream.getvalue()) for place, stream in enumerate(streams)]
    checked = check_images("zoo", {"train": rows}, SETTINGS, None)
    none = Leaks(count=0, examples=())
    lines = warnings_of(checked, SETTINGS, none, none)
    assert lines[0] == "files of several frames or pages, of which the first is taken: 1"
    assert lines[1].startswith("grey images of 16 bits: 1, none brighter than 4000 of 65535")
    ranged = SETTINGS.model_copy(update={"value_range": [0.0, 4095.0]})
    assert warnings_of(checked, ranged, none, none) == lines[:1]
