"""Packed splits: bytes in, the same bytes out, whatever the number of files."""

import io
import pickle
import subprocess
import sys

import pyarrow as pa
import pytest
import torch
from PIL import Image

from drtune.base.errors import DataError
from drtune.data.card import DatasetCard, Leaks, write_card
from drtune.data.packed import SCHEMA, PackedSplit, Split, open_split, shards_of, write_split


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 3), value).save(stream, format="PNG")
    return stream.getvalue()


ROWS = [(f"a/{row}.png", png(row), row % 3) for row in range(7)]


def card(**counts: int) -> DatasetCard:
    return DatasetCard(
        name="folder",
        title="t",
        classes=("x", "y", "z"),
        counts=counts,
        per_class={},
        source="s",
        licence="unknown",
        split="",
        sha256={},
        modes={},
        skipped=(),
        leaks=Leaks(count=0, examples=()),
        warnings=(),
    )


def test_round_trip(tmp_path):
    path = tmp_path / "train.arrow"
    assert write_split(path, iter(ROWS)) == 7
    split = PackedSplit(path)
    assert len(split) == 7
    assert split.ids == [row[0] for row in ROWS]
    assert split.labels.dtype == torch.int64
    assert split.labels.tolist() == [row[2] for row in ROWS]
    assert [split.encoded(row) for row in range(7)] == [row[1] for row in ROWS]
    assert split.image(5).getpixel((0, 0)) == (5, 5, 5)


def test_columns_on_the_disk(tmp_path):
    write_split(tmp_path / "train.arrow", ROWS)
    table = pa.ipc.open_file(tmp_path / "train.arrow").read_all()
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {"id": "string", "image": "binary", "label": "int32"}


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_split(tmp_path / f"{name}.arrow", ROWS)
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_many_record_batches(tmp_path):
    rows = [(str(row), bytes([row % 251]), row) for row in range(3000)]
    assert write_split(tmp_path / "train.arrow", rows) == 3000
    split = PackedSplit(tmp_path / "train.arrow")
    assert [split.encoded(row) for row in (0, 1023, 1024, 2999)] == [
        rows[i][1] for i in (0, 1023, 1024, 2999)
    ]
    assert split.labels.tolist() == list(range(3000))


def test_shards_read_as_one_and_stale_ones_go(tmp_path):
    path, rows = tmp_path / "train.arrow", [(str(row), bytes([row] * 10), row) for row in range(7)]
    write_split(path, rows, shard_bytes=20)
    assert [shard.name for shard in shards_of(path)] == [
        "train.arrow",
        "train-001.arrow",
        "train-002.arrow",
        "train-003.arrow",
    ]
    split = PackedSplit(path)
    assert split.ids == [row[0] for row in rows]
    assert [split.encoded(row) for row in range(7)] == [row[1] for row in rows]
    write_split(path, rows, shard_bytes=49)
    assert [shard.name for shard in shards_of(path)] == ["train.arrow", "train-001.arrow"]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_image_larger_than_a_shard_stands_alone(tmp_path):
    write_split(tmp_path / "train.arrow", ROWS[:2], shard_bytes=1)
    assert PackedSplit(tmp_path / "train.arrow").ids == ["a/0.png", "a/1.png"]


def test_pickle_maps_again(tmp_path):
    write_split(tmp_path / "train.arrow", ROWS)
    split = PackedSplit(tmp_path / "train.arrow")
    data = pickle.dumps(split)
    assert len(data) < 500
    assert pickle.loads(data).encoded(3) == ROWS[3][1]


def test_a_failing_source_leaves_the_old_split(tmp_path):
    path = tmp_path / "train.arrow"
    write_split(path, ROWS)
    before = path.read_bytes()

    def failing():
        yield ROWS[0]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_split(path, failing())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.arrow"]


def test_open_split_by_name(tmp_path):
    write_split(tmp_path / "val.arrow", ROWS)
    write_split(tmp_path / "ood" / "sketch.arrow", ROWS[:2])
    write_card(tmp_path, card(**{"val": 7, "ood/sketch": 2}))
    assert len(open_split(tmp_path, Split.VAL)) == 7
    assert len(open_split(tmp_path, "ood/sketch")) == 2
    with pytest.raises(DataError, match="no split 'test'; it has: val, ood/sketch"):
        open_split(tmp_path, Split.TEST)


def test_open_split_refuses_what_is_not_packed(tmp_path):
    with pytest.raises(DataError, match=r"is not a packed data set: it holds no dataset\.json"):
        open_split(tmp_path, "train")
    write_card(tmp_path, card(train=7))
    with pytest.raises(DataError, match=r"train\.arrow: no such split"):
        open_split(tmp_path, "train")
    (tmp_path / "train.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(DataError, match="is damaged"):
        open_split(tmp_path, "train")
    write_split(tmp_path / "train.arrow", ROWS[:3])
    with pytest.raises(DataError, match="holds 3 images where the card says 7"):
        open_split(tmp_path, "train")
    table = pa.table({"x": [1]})
    with pa.ipc.new_file(str(tmp_path / "train.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"its columns are \['x'\]"):
        open_split(tmp_path, "train")


HOSTILE = """
import random, sys
from pathlib import Path
import torch
from drtune.base.errors import DataError
from drtune.data.packed import PackedSplit
path = Path(sys.argv[1])
base, pick, refused = path.read_bytes(), random.Random(0), 0
for number in range(300):
    content = bytearray(base)
    for _ in range(2):
        content[pick.randrange(len(base))] = pick.choice([0, 127, 128, 255])
    path.write_bytes(content)
    try:
        split = PackedSplit(path)
        split.ids, split.labels, [split.encoded(row) for row in range(len(split))]
    except DataError:
        refused += 1
print(refused)
"""


def test_bytes_of_a_stranger_end_no_process(tmp_path):
    write_split(tmp_path / "a.arrow", [(f"id{row}", b"x" * 20, row % 3) for row in range(50)])
    command = [sys.executable, "-c", HOSTILE, str(tmp_path / "a.arrow")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_rows_without_a_value_are_refused(tmp_path):
    table = pa.table([["a", None], [b"1", b"2"], [0, 1]], schema=SCHEMA)
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), SCHEMA) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"is damaged \(rows without a value\)"):
        PackedSplit(tmp_path / "a.arrow")
