"""Tables of labels: every way in which a program writes one."""

import codecs

import pyarrow as pa
import pytest
from pyarrow import parquet

from drtune.base.errors import DataError, UntrustedError
from drtune.sources.columns import PLAIN, Naming, read_table, select, table_in


def named(**changes):
    return PLAIN.model_copy(update=changes)


def csv(tmp_path, content, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_any_delimiter(tmp_path, delimiter):
    table = csv(tmp_path, "image,label\na.jpg,cat\nb.jpg,dog\n".replace(",", delimiter))
    assert table.columns == {"image": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]}


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + "image,label\nä.jpg,é\n".encode(),
        codecs.BOM_UTF16_LE + "image\tlabel\nä.jpg\té\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "image;label\r\nä.jpg;é\r\n".encode("utf-16-be"),
        " image , label \r\n ä.jpg , é \r\n".encode(),
        'image, label\r"ä.jpg", "é"\r'.encode(),
    ],
)
def test_byte_order_marks_line_ends_spaces_and_quotes(tmp_path, content):
    assert csv(tmp_path, content).columns == {"image": ["ä.jpg"], "label": ["é"]}


def test_values_stay_text(tmp_path):
    names = ["01", "NA", "null", "true", "1e3", "1.0", "nan", "None", "a, b", "x", ""]
    rows = "".join(f'{number}.jpg,"{name}"\n' for number, name in enumerate(names))
    table = csv(tmp_path, "image,label\n" + rows)
    assert table.columns["label"] == names
    assert table.first == 2


def test_parquet_of_any_type(tmp_path):
    columns = {
        "image": pa.array(["a", None, "c"]),
        "label": pa.array([1.0, None, 2.0]),
        "split": pa.array(["train", "val", "train"]).dictionary_encode(),
        "number": pa.array([1, 2, 3], pa.int8()),
        "bytes": pa.array([b"x", b"y", b"z"]),
        "list": pa.array([[1], [2], [3]]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "labels.parquet")
    assert read_table(tmp_path / "labels.parquet") == (
        tmp_path / "labels.parquet",
        {
            "image": ["a", "", "c"],
            "label": ["1", "", "2"],
            "split": ["train", "val", "train"],
            "number": ["1", "2", "3"],
        },
        1,
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.csv", "image,label\na,b,c\n", "row 2 has 3 values, the header 2.*; save it as CSV in UTF-8"),
        ("labels.csv", 'image,label\na,"b\n', "cannot be read as a table"),
        ("labels.csv", b"image,label\na,caf\xe9\n", "cannot be read as a table .*save it as CSV in UTF-8"),
        ("labels.parquet", "image,label\n", "labels.parquet: cannot be read as a table .*; write it again"),
        ("labels.csv", "image,label,label\n", "two columns are called 'label'; rename one"),
        ("labels.xlsx", "x", "no table that is read; expected one of .csv, .tsv, .txt, .parquet"),
    ],
)
def test_what_is_no_table(tmp_path, name, content, words):
    with pytest.raises(DataError, match=words):
        csv(tmp_path, content, name)


def test_a_table_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("drtune.sources.columns.LARGEST", 10)
    with pytest.raises(DataError, match="larger than 10 bytes; a table of labels holds no images"):
        csv(tmp_path, "image,label\na,b\n")


def test_which_table(tmp_path):
    assert table_in(tmp_path, Naming()) is None
    with pytest.raises(
        DataError, match=r"data\.columns: .* holds no labels\.csv or labels\.parquet; name one"
    ):
        table_in(tmp_path, Naming(columns=named(image="id")))
    (tmp_path / "Labels.CSV").touch()
    (tmp_path / "train.csv").touch()
    assert table_in(tmp_path, Naming()) == tmp_path / "Labels.CSV"
    assert table_in(tmp_path, Naming("train.csv")) == tmp_path / "train.csv"
    with pytest.raises(DataError, match=r"data\.labels: .* holds no table 'x\.csv'; null takes labels\.csv"):
        table_in(tmp_path, Naming("x.csv"))
    with pytest.raises(UntrustedError, match="is no path below"):
        table_in(tmp_path, Naming("../x.csv"))
    (tmp_path / "labels.parquet").touch()
    with pytest.raises(
        DataError, match=r"holds Labels\.CSV and labels\.parquet; say which has the labels: data\.labels"
    ):
        table_in(tmp_path, Naming())


TABLE = "id,Breed,Split,patient,weight\n1,cat,train,p1,1\n2,dog,test,p2,1.0\n"


def test_columns_are_found_by_role_by_name_and_by_pattern(tmp_path):
    table = csv(tmp_path, TABLE)
    naming = Naming(columns=named(image="train/{id}_{breed}.jpg", label="breed"), group="patient")
    selected = select(table, naming)
    assert selected.image == ["train/1_cat.jpg", "train/2_dog.jpg"]
    assert (selected.label, selected.split) == (["cat", "dog"], ["train", "test"])
    assert (selected.group, selected.grouped) == (["p1", "p2"], "patient")
    without = Naming(columns=named(image="id", label="Breed", split=None, group="patient"))
    assert select(table, without)[2:] == (None, ["p1", "p2"], "patient")
    assert select(table, without._replace(group=r"(\d)"))[3:] == (None, "")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {},
            r"labels.csv has no column 'image' of plain values; .*columns.image: id, data.columns.label: Br",
        ),
        ({"image": "id", "label": "x"}, r"data\.columns\.label: .* has no column 'x'"),
        ({"image": "id", "label": "Breed", "group": "x"}, r"data\.columns\.group: .* has no column 'x'"),
        (
            {"image": "{no}.jpg", "label": "Breed"},
            r"data\.columns\.image: '{no}\.jpg': .* has no column 'no'",
        ),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, words):
    with pytest.raises(DataError, match=words):
        select(csv(tmp_path, TABLE), Naming(columns=named(**columns)))


def test_weights_are_refused_unless_they_say_nothing(tmp_path):
    table = csv(tmp_path, "image,label,weight\na,b,2\nc,d,1\n")
    words = r"column 'weight' gives images a weight, which no training here uses: .*columns.weight: null"
    with pytest.raises(DataError, match=words):
        select(table, Naming())
    assert select(table, Naming(columns=named(weight=None))).label == ["b", "d"]
