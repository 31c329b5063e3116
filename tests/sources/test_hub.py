"""Data sets of the hub, from its cache, from a folder put there by hand, or refused with what to do."""

import json
from functools import partial
from urllib.error import HTTPError

import pytest
from huggingface_hub import constants

from drtune.base.errors import DataError
from drtune.data.packed import Split
from drtune.sources import hub
from drtune.sources.sources import read_source

COMMIT = "a" * 40


@pytest.fixture
def record(beans, tmp_path, monkeypatch):
    """A record of a set on the hub, whose cache is empty and which cannot be asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    path = tmp_path / "beans.yaml"
    path.write_text(beans)
    return path


@pytest.fixture
def cached(parquet_shard):
    """Lay the files of the record out below a folder; returns where."""
    return partial(lay_out, parquet_shard)


def lay_out(shard, folder):
    """The files of the record as `huggingface_hub` lays them out: links in a snapshot to blobs beside it."""
    home = folder / "datasets--OWNER--beans"
    names = ["x", "y", "z"]
    shards = {
        "train-00000-of-00002": [0, 1, 2],
        "train-00001-of-00002": [2, 1, 0],
        "test-00000-of-00001": [1, 2, 0],
    }
    for number, (name, labels) in enumerate(shards.items()):
        blob = shard(home / "blobs" / (f"{number}" * 64), labels, names)
        link = home / "snapshots" / COMMIT / "data" / f"{name}.parquet"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../../blobs/{blob.name}")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    return home


def check(source):
    assert source.classes == ("x", "y", "z")
    assert [row.label for row in source.parts[Split.TRAIN]] == [0, 1, 2, 2, 1, 0]
    assert [row.label for row in source.parts[Split.TEST]] == [1, 2, 0]
    assert source.parts[Split.TRAIN][4].id == "data/train-00001-of-00002.parquet/0000001"
    assert source.parts[Split.TRAIN][4].load() == b"image 1"
    assert (source.name, source.title, source.licence) == ("beans", "Beans", "MIT")


def test_what_the_cache_holds_is_read_without_a_network(cached, record, tmp_path):
    cached(tmp_path / "cache")
    check(read_source(str(record), tmp_path / "downloads"))
    assert not (tmp_path / "downloads").exists(), "the cache is shared; nothing is copied"


def test_a_folder_put_there_by_hand_is_read(cached, record, tmp_path):
    home = cached(tmp_path / "elsewhere")
    place = tmp_path / "downloads/beans/hub-aaaaaaaaaaaa"
    place.parent.mkdir(parents=True)
    (home / "snapshots" / COMMIT).rename(tmp_path / "beans")
    for link in (tmp_path / "beans/data").iterdir():
        content = (home / "blobs" / link.readlink().name).read_bytes()
        link.unlink()
        link.write_bytes(content)
    (tmp_path / "beans").rename(place)
    check(read_source(str(record), tmp_path / "downloads"))


def test_what_cannot_be_had_says_what_to_do(record, tmp_path):
    with pytest.raises(DataError) as caught:
        read_source(str(record), tmp_path / "downloads")
    assert str(caught.value).splitlines() == [
        "beans: cannot fetch OWNER/beans at aaaaaaaaaaaa from https://huggingface.co: HF_HUB_OFFLINE is set, "
        "and its cache does not have it",
        "on a machine with access (for a gated set after `hf auth login`):",
        f"  hf download OWNER/beans --repo-type dataset --revision {COMMIT} --include 'data/train-*' "
        "--include 'data/test-*' --local-dir beans",
        f"then copy that folder here as {tmp_path}/downloads/beans/hub-aaaaaaaaaaaa and run again",
    ]


def test_a_hub_that_does_not_answer_is_not_asked_for_long(record, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    text = r"from http://127\.0\.0\.1:9: it does not answer \(.*refused\), and its cache does not have it"
    with pytest.raises(DataError, match=text):
        read_source(str(record), tmp_path / "downloads")


def test_an_answer_of_any_kind_is_no_silence(monkeypatch):
    def refuse(*args, **kwargs):
        raise HTTPError("http://x", 404, "no", {}, None)

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert hub.hub_silence("http://x", False) == ""


def test_shards_that_are_not_all_there(cached, record, tmp_path):
    home = cached(tmp_path / "cache")
    (home / "snapshots" / COMMIT / "data/train-00000-of-00002.parquet").unlink()
    with pytest.raises(
        DataError, match=r"1 of the 2 files data/train-\*-of-00002 are there.*delete that folder"
    ):
        read_source(str(record), tmp_path / "downloads")


def test_a_snapshot_of_which_a_listing_shows_more_is_not_whole(cached, record, tmp_path):
    home = cached(tmp_path / "cache")
    files = {"data/train-more.parquet": {"size": 1, "blob_id": "0" * 40}}
    listed = {"format_version": 1, "files": files}
    (home / "trees").mkdir()
    (home / "trees" / f"{COMMIT}.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match="cannot fetch OWNER/beans at aaaaaaaaaaaa"):
        read_source(str(record), tmp_path / "downloads")


def test_folders_of_classes(record, tmp_path):
    text = record.read_text().replace("layout: parquet", "layout: folders").replace("parts:", "# parts:")
    record.write_text(text)
    home = tmp_path / "cache/datasets--OWNER--beans"
    for number, name in enumerate(["train/x", "train/y", "train/z", "test/x", "test/y", "test/z"]):
        (home / "blobs").mkdir(parents=True, exist_ok=True)
        (home / f"blobs/{number}").write_text(name)
        (home / "snapshots" / COMMIT / name).mkdir(parents=True)
        (home / "snapshots" / COMMIT / name / "1.jpg").symlink_to(f"../../../../blobs/{number}")
    (home / "snapshots" / COMMIT / "README.md").write_text("about")
    source = read_source(str(record), tmp_path / "downloads")
    assert source.classes == ("x", "y", "z")
    rows = [(row.id, row.load()) for row in source.parts[Split.TEST]]
    assert rows == [(f"test/{name}/1.jpg", f"test/{name}".encode()) for name in "xyz"]
