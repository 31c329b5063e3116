"""Parquet shards as `datasets` writes and the Hugging Face hub holds them."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drtune.sources import parquet as module
from drtune.sources.parquet import parquet
from drtune.sources.shards import Columns


def test_rows_have_their_names_and_bytes(parquet_shard, tmp_path):
    rows = list(parquet(parquet_shard(tmp_path / "a.parquet", [1, 0, 1, 1, 0]), "data/a.parquet", Columns()))
    assert [row.label for row in rows] == ["dog", "cat", "dog", "dog", "cat"]
    assert rows[3].id == "data/a.parquet/0000003"
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda row: row.load(), rows)) == [f"image {row}".encode() for row in range(5)]


def test_labels_without_names(parquet_shard, tmp_path):
    rows = parquet(parquet_shard(tmp_path / "n", [3, 0], names=None), "n", Columns())
    assert [row.label for row in rows] == [3, 0]
    rows = parquet(parquet_shard(tmp_path / "t", ["x", "y"], names=None, kind=pa.string()), "t", Columns())
    assert [row.label for row in rows] == ["x", "y"]
    coded = pa.dictionary(pa.int8(), pa.string())
    rows = parquet(parquet_shard(tmp_path / "d", ["x", "y"], names=None, kind=coded), "d", Columns())
    assert [row.label for row in rows] == ["x", "y"]


def test_other_columns_of_plain_bytes(tmp_path):
    pq.write_table(pa.table({"img": [b"one"], "fine": ["a"]}), tmp_path / "p")
    (row,) = parquet(tmp_path / "p", "p", Columns(image="img", label="fine"))
    assert (row.load(), row.label) == (b"one", "a")


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (Columns(image="img"), "a: has no column 'img'; it has: image, label"),
        (Columns(image="label"), "a: column 'label' holds int64, not encoded images"),
        (Columns(label="image"), "a: column 'image' holds struct<.*, not numbers or names"),
    ],
)
def test_columns_that_are_something_else(parquet_shard, tmp_path, columns, text):
    with pytest.raises(ValueError, match=text):
        list(parquet(parquet_shard(tmp_path / "a", [0]), "a", columns))


def test_a_label_without_a_name(parquet_shard, tmp_path):
    with pytest.raises(ValueError, match="a: row 1 has the label 2, but there are 2 names"):
        list(parquet(parquet_shard(tmp_path / "a", [0, 2]), "a", Columns()))
    with pytest.raises(ValueError, match="a: row 0 has no label"):
        list(parquet(parquet_shard(tmp_path / "a", [None]), "a", Columns()))


def test_a_row_without_an_image_and_a_group_without_end(parquet_shard, tmp_path, monkeypatch):
    images = [{"bytes": None, "path": "/home/them/1.jpg"}, {"bytes": b"x", "path": None}]
    rows = list(parquet(parquet_shard(tmp_path / "a", [0, 1], images=images), "a", Columns()))
    with pytest.raises(OSError, match="the row has no image, at most the name of one"):
        rows[0].load()
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    module.row_group.cache_clear()
    with pytest.raises(OSError, match="a row group of a holds .* bytes, allowed 10"):
        rows[1].load()


def test_a_damaged_file(parquet_shard, tmp_path):
    path = parquet_shard(tmp_path / "a", [0, 1] * 50, group=1)
    rows = list(parquet(path, "a", Columns()))
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(OSError, match="deserialize"):
        rows[0].load()
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="(?i)parquet"):
        list(parquet(path, "a", Columns()))
