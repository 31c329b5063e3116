"""Archives: fetched once, verified, unpacked whole; and what is said when they cannot be had."""

import errno
import gzip
import hashlib
import io
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from drtune.base.errors import DataError, UntrustedError
from drtune.sources.archives import Archive, obtain, place, unpack


def tgz(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def published(tmp_path):
    """A host (file://) with two archives and a plain file."""
    host = tmp_path / "host"
    host.mkdir()
    tgz(host / "images.tgz", {"images/1.jpg": b"one"})
    (host / "labels.mat").write_bytes(b"labels")
    tgz(host / "inner.tar.gz", {"deep/2.jpg": b"two"})
    with zipfile.ZipFile(host / "outer.zip", "w") as archive:
        archive.write(host / "inner.tar.gz", "outer/inner.tar.gz")
    return host


def archives(host: Path) -> list[Archive]:
    return [
        Archive(url=f"file://{host}/images.tgz", md5=md5(host / "images.tgz"), into="base"),
        Archive(url=f"file://{host}/labels.mat", md5=md5(host / "labels.mat"), into="base"),
        Archive(
            url=f"file://{host}/outer.zip", sha256=sha256(host / "outer.zip"), inner="outer/inner.tar.gz"
        ),
    ]


def test_fetch_verify_unpack(tmp_path, published):
    calls = []
    tree = obtain("pets", archives(published), tmp_path / "dl", lambda *call: calls.append(call))
    assert tree == tmp_path / "dl" / "pets" / "extracted"
    assert (tree / "base" / "images" / "1.jpg").read_bytes() == b"one"
    assert (tree / "base" / "labels.mat").read_bytes() == b"labels"
    assert (tree / "deep" / "2.jpg").read_bytes() == b"two"
    assert ("labels.mat", 6, 6) in calls
    assert sorted(path.name for path in (tmp_path / "dl" / "pets").iterdir()) == [
        "extracted",
        "images.tgz",
        "labels.mat",
        "outer.zip",
    ]


def test_nothing_is_fetched_twice(tmp_path, published, monkeypatch):
    obtain("pets", archives(published), tmp_path / "dl", None)
    records = archives(published)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("fetched again"))
    obtain("pets", records, tmp_path / "dl", None)
    (tmp_path / "dl" / "pets" / "extracted").rename(tmp_path / "dl" / "pets" / "old")
    assert (obtain("pets", records, tmp_path / "dl", None) / "base" / "images" / "1.jpg").is_file()


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError("http://x", 503, "Service Unavailable", None, None),
        ConnectionResetError("Connection reset by peer"),
        TimeoutError("timed out"),
    ],
)
def test_unreachable_host_says_what_to_put_where(tmp_path, published, monkeypatch, failure):
    home = tmp_path / "dl" / "pets"
    home.mkdir(parents=True)
    (home / "images.tgz").write_bytes((published / "images.tgz").read_bytes())

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(DataError) as caught:
        obtain("pets", archives(published), tmp_path / "dl", None)
    text = str(caught.value)
    assert "pets: cannot fetch labels.mat from file://" in text
    assert str(failure) in text
    assert f"put into {home}/ and run again" in text
    assert f"  labels.mat  from file://{published}/labels.mat  (md5 {md5(published / 'labels.mat')})" in text
    assert (
        f"  outer.zip  from file://{published}/outer.zip  (sha256 {sha256(published / 'outer.zip')})" in text
    )
    assert "  images.tgz  from" not in text  # it is there already
    assert [path.name for path in home.iterdir()] == ["images.tgz"]
    if isinstance(failure, urllib.error.HTTPError):
        failure.close()


def test_host_that_is_gone_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(
        DataError, match=r"cannot fetch cars\.tgz from http://old/cars\.tgz: its host is gone"
    ):
        obtain("cars", [Archive(url="http://old/cars.tgz", md5="0" * 32, gone=True)], tmp_path, None)


def test_wrong_file_from_the_host_is_not_kept(tmp_path, published):
    record = Archive(url=f"file://{published}/images.tgz", md5="0" * 32)
    with pytest.raises(DataError, match=r"what came is not the published file: md5 is .*, published is 0000"):
        obtain("pets", [record], tmp_path / "dl", None)
    assert list((tmp_path / "dl" / "pets").iterdir()) == []


def test_connection_that_ends_early_is_not_kept(tmp_path, published, monkeypatch):
    class Short(io.BytesIO):
        headers = {"Content-Length": "10"}  # noqa: RUF012

    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: Short(b"abc"))
    with pytest.raises(DataError, match="connection ended after 3 of 10 bytes"):
        obtain("pets", [Archive(url="http://x/a.tgz", md5="0" * 32)], tmp_path / "dl", None)
    assert list((tmp_path / "dl" / "pets").iterdir()) == []


def test_damaged_file_put_there_by_hand(tmp_path, published):
    home = tmp_path / "dl" / "pets"
    home.mkdir(parents=True)
    (home / "images.tgz").write_bytes(b"half")
    with pytest.raises(DataError, match=r"images\.tgz: md5 is .* delete it and run again"):
        obtain("pets", archives(published), tmp_path / "dl", None)
    assert (home / "images.tgz").read_bytes() == b"half"  # a person's file is theirs


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
def test_archive_that_cannot_be_unpacked(tmp_path, published, name):
    home = tmp_path / "dl" / "pets"
    home.mkdir(parents=True)
    whole = published / ("images.tgz" if name == "a.tgz" else "outer.zip")
    (home / name).write_bytes(whole.read_bytes()[:60])
    record = Archive(url=f"http://x/{name}", md5=md5(home / name))
    with pytest.raises(DataError, match=rf"{name} cannot be unpacked .* delete it and run again"):
        obtain("pets", [record], tmp_path / "dl", None)
    assert [path.name for path in home.iterdir()] == [name]


def test_full_disk_is_not_blamed_on_the_network(tmp_path, published, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(urllib.request, "urlopen", full)
    with pytest.raises(OSError, match="No space left"):
        obtain("pets", archives(published), tmp_path / "dl", None)


def test_the_tree_follows_the_archives_it_is_made_from(tmp_path, published):
    before, *others = archives(published)
    tree = obtain("pets", [before, *others], tmp_path / "dl", None)
    (tree / "base" / "images" / "1.jpg").write_bytes(b"edited")
    assert obtain("pets", [before, *others], tmp_path / "dl", None) == tree
    assert (tree / "base" / "images" / "1.jpg").read_bytes() == b"edited"
    obtain("pets", [before.model_copy(update={"into": "other"}), *others], tmp_path / "dl", None)
    assert (tree / "other" / "images" / "1.jpg").read_bytes() == b"one"
    assert not (tree / "base" / "images").exists()


def test_a_sha256_is_checked(tmp_path, published):
    record = Archive(url=f"file://{published}/labels.mat", sha256="0" * 64)
    with pytest.raises(DataError, match=f"sha256 is {sha256(published / 'labels.mat')}, published is 0000"):
        obtain("pets", [record], tmp_path / "dl", None)
    assert list((tmp_path / "dl" / "pets").iterdir()) == []


@pytest.mark.parametrize("field", ["into", "inner"])
@pytest.mark.parametrize("name", ["../x", "/etc", "a/../../x"])
def test_folders_and_inner_archives_of_a_record_stay_in_its_tree(field, name, tmp_path):
    home = tmp_path / "downloads" / "set"
    home.mkdir(parents=True)
    with tarfile.open(home / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    digest = hashlib.md5((home / "a.tar").read_bytes()).hexdigest()
    archive = Archive(url="https://host/a.tar", md5=digest, **{field: name})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UntrustedError, match="is no path below .*; refused, nothing was written"):
        obtain("set", [archive], tmp_path / "downloads", None)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    member = tarfile.TarInfo("a")
    member.type, member.size = tarfile.XHDTYPE, 2_000_000_000
    (tmp_path / "a.tar").write_bytes(member.tobuf() + bytes(100_000))
    with pytest.raises(UntrustedError, match="whose header holds a name of 2,000,000,000 bytes; refused"):
        unpack(tmp_path / "a.tar", tmp_path)


@pytest.mark.parametrize("change", [(10, b"\x63\x00"), (8, b"\x01\x00")])
def test_a_zip_of_an_unknown_method_or_with_a_password_is_told(change, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "x")
    content, (offset, value) = bytearray(path.read_bytes()), change
    for start, shift in ((content.index(b"PK\x01\x02"), 0), (0, -2)):
        content[start + offset + shift : start + offset + shift + 2] = value
    path.write_bytes(content)
    archive = Archive(url="https://host/a.zip", md5="0" * 32)
    with pytest.raises(DataError, match="a.zip cannot be unpacked .*; delete it and run again"):
        place(archive, path, tmp_path / "in")


def test_what_unpacks_to_far_more_than_it_holds_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("drtune.sources.archives.ALWAYS", 1000)
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"}
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("x")
        member.size, member.pax_headers = 512, {**sparse, "GNU.sparse.realsize": str(10**10)}
        archive.addfile(member, io.BytesIO(b"1\n0\n0\n" + bytes(506)))
    with gzip.open(tmp_path / "g.tar.gz", "wb") as stream:
        member = tarfile.TarInfo("x")
        member.size = 10**7
        stream.write(member.tobuf() + bytes(10**7 + 1024))
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(10**7))
    for name in ("s.tar", "g.tar.gz", "z.zip"):
        with pytest.raises(UntrustedError, match="holds 1 files of .* bytes, allowed"):
            unpack(tmp_path / name, tmp_path / "in")
    assert not (tmp_path / "in").exists()
