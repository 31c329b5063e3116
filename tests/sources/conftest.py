"""Small shards as publishers write them, and a record of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

RECORD = f"""
title: Beans
licence: MIT
homepage: https://huggingface.co/datasets/OWNER/beans
classes: 3
split: official train and test
layout: parquet
parts: {{train: data/train-*, test: data/test-*}}
hub: OWNER/beans@{"a" * 40}
"""


@pytest.fixture(scope="session")
def beans():
    """The text of a record of the hub."""
    return RECORD


NAMES = ["cat", "dog"]
INTEGER = pa.int64()
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="session")
def parquet_shard():
    return write_parquet


def write_parquet(path, labels, names=NAMES, images=None, kind=INTEGER, group=2):
    """A file of the hub: images as {bytes, path}, labels as numbers whose names are in the schema."""
    images = images or [
        {"bytes": f"image {row}".encode(), "path": f"{row}.jpg"} for row in range(len(labels))
    ]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()} if names else None
    table = pa.table({"image": pa.array(images, IMAGE), "label": pa.array(labels, kind)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(about), path, row_group_size=group)
    return path
