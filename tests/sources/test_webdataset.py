"""WebDataset shards, read where they lie."""

import io
import json
import tarfile

import pytest

from drtune.base.errors import UntrustedError
from drtune.sources import webdataset as module
from drtune.sources.shards import Columns
from drtune.sources.webdataset import webdataset


def shard(path, mode="w", **members):
    """A tar file with these members, `__` for a dot and `_0_` for a slash in their names."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name.replace("_0_", "/").replace("__", "."))
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def test_samples_have_labels_and_bytes(tmp_path):
    path = shard(tmp_path / "a.tar", a_0_1__jpg=b"one", a_0_1__cls=b"7\n", a_0_2__cls=b"0", a_0_2__PNG=b"two")
    rows = list(webdataset(path, "a.tar", Columns()))
    assert [(row.id, row.label, row.load()) for row in rows] == [
        ("a.tar/a/1", 7, b"one"),
        ("a.tar/a/2", 0, b"two"),
    ]


def test_names_json_and_other_endings(tmp_path):
    about = json.dumps({"label": "cat", "number": 3}).encode()
    path = shard(tmp_path / "a.tar", x__img__webp=b"i", x__json=about, x__txt=b" dog ")
    for label, found in (("json.label", "cat"), ("json.number", 3), ("txt", "dog")):
        (row,) = webdataset(path, "a", Columns(image="jpg;img.webp", label=label))
        assert (row.label, row.load()) == (found, b"i")


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"x__jpg": b"i"},
            r"s: sample x holds jpg; expected one image \(jpg;jpeg;png;webp\) and a label \(cls",
        ),
        ({"x__cls": b"1"}, "s: sample x holds cls; expected one image"),
        (
            {"x__jpg": b"i", "x__png": b"i", "x__cls": b"1"},
            "s: sample x holds jpg, png, cls; expected one image",
        ),
        ({"x__jpg": b"i", "x__JPG": b"i"}, r"a\.tar: 'x\.JPG' is no file of a sample, or there twice"),
        ({"README": b"i"}, r"a\.tar: 'README' is no file of a sample"),
        ({"x__jpg": b"i", "x__cls": b" "}, r"s: sample x has no label in 'x\.cls'"),
        ({"x__jpg": b"i", "x__cls": b"1" * 2_000_000}, r"s: sample x has no label in 'x\.cls'"),
    ],
)
def test_samples_that_are_none(tmp_path, members, text):
    path = shard(tmp_path / "a.tar", **members)
    with pytest.raises(ValueError, match=text):
        list(webdataset(path, "s", Columns()))


@pytest.mark.parametrize("content", [b"[1]", b"{}", b"no", b'{"label": true}', b'{"label": [1]}'])
def test_json_without_the_label(tmp_path, content):
    path = shard(tmp_path / "a.tar", x__jpg=b"i", x__json=content)
    with pytest.raises(ValueError, match=r"s: sample x has no label in 'x\.json'"):
        list(webdataset(path, "s", Columns(label="json.label")))


def test_a_compressed_or_shortened_shard(tmp_path):
    path = shard(tmp_path / "a.tar.gz", "w:gz", x__jpg=b"i", x__cls=b"1")
    with pytest.raises(ValueError, match=r"a: is no plain tar file \(.*\); unpack one that is compressed"):
        list(webdataset(path, "a", Columns()))
    path = shard(tmp_path / "b.tar", x__cls=b"1", x__jpg=b"i" * 20_000)
    (row,) = webdataset(path, "b", Columns())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(OSError, match=r"b\.tar ends within it"):
        row.load()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    about = tarfile.TarInfo("x.jpg")
    about.type, about.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(about)
    with pytest.raises(UntrustedError, match=r"'x\.jpg' is a link or a device; refused"):
        list(webdataset(tmp_path / "a.tar", "a", Columns()))


def test_a_shard_of_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_MEMBERS", 2)
    with pytest.raises(UntrustedError, match=r"a\.tar: holds more than 2 files; refused"):
        list(webdataset(shard(tmp_path / "a.tar", a__b=b"", c__d=b"", e__f=b"", g__h=b""), "a", Columns()))
