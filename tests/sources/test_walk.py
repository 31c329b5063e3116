"""Walking a user's folders."""

import pytest

from drtune.base.errors import DataError
from drtune.sources.walk import at_and_above, files_below, is_picture, natural, visible


def test_natural_order():
    assert natural({"c10", "c2", "c1", "b", "10", "9", "é"}) == ["9", "10", "b", "c1", "c2", "c10", "é"]
    assert natural({"a01", "a1"}) == ["a01", "a1"]


def test_pictures_are_known_by_their_ending():
    assert all(map(is_picture, ["a.jpg", "a.JPEG", "a.b.png", "x/y.tif", "a.webp"]))
    assert not any(map(is_picture, ["a.txt", "jpg", ".jpg", "a.jpg.part", "a.eps", "a.pdf"]))


def test_junk_is_not_even_noted(tmp_path):
    for name in ("b", "a", ".hidden", ".DS_Store", "._a", "Thumbs.db", "@eaDir"):
        (tmp_path / name).touch()
    passed = []
    assert [entry.name for entry in visible(tmp_path, passed)] == ["a", "b"]
    assert [entry.name for entry in passed] == [".hidden"]


def test_a_folder_that_may_not_be_listed(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file cannot be listed: Not a directory"):
        visible(tmp_path / "file")


def test_links_that_lead_in_a_ring_end(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    (tmp_path / "a" / "b").symlink_to("../b")
    (tmp_path / "b" / "a").symlink_to("../a")
    passed = []
    found = files_below(tmp_path / "a", at_and_above(tmp_path), passed)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/1.jpg", "a/b/1.jpg"]
    assert passed == [tmp_path / "a/b/a"]
