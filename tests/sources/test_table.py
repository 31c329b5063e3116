"""A folder of images whose labels stand in a table."""

import pytest

from drtune.base.errors import DataError
from drtune.data.packed import Split
from drtune.sources.columns import PLAIN, Naming
from drtune.sources.table import table_source


def made(root, table, *files):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "labels.csv").write_text(table)
    return root


def read(root, **columns):
    columns = PLAIN.model_copy(update=columns)
    return table_source(root, root / "labels.csv", Naming(columns=columns))


def ids(source, part=Split.TRAIN):
    return [(row.id, source.classes[row.label]) for row in source.parts[part]]


def test_rows_in_natural_class_order_with_their_bytes(tmp_path):
    made(tmp_path, "image,label\nb.jpg,10\na.jpg,9\nsub/c.jpg,01\n", "a.jpg", "b.jpg", "sub/c.jpg")
    source = read(tmp_path)
    assert source.classes == ("01", "9", "10")
    assert ids(source) == [("a.jpg", "9"), ("b.jpg", "10"), ("sub/c.jpg", "01")]
    assert source.parts[Split.TRAIN][2].load() == b"sub/c.jpg"
    assert (source.split, source.grouped, source.warnings) == ("labels.csv has no split", "", ())
    assert source.origin == "a folder of images with labels.csv"


def test_splits_groups_and_ood(tmp_path):
    table = "image,label,split,group\na,x,Train,1\nb,y,training,2\nc,x,VALID,3\nd,y,test,4\ne,y,ood/fog,5\n"
    source = read(made(tmp_path, table, *(f"{name}.png" for name in "abcde")))
    assert list(source.parts) == ["train", "val", "test", "ood/fog"]
    assert ids(source, "ood/fog") == [("e.png", "y")]
    assert [row.group for row in source.parts[Split.TRAIN]] == ["1", "2"]
    assert source.split == "train, val, test as given by column split of labels.csv"
    assert source.grouped == "column group of labels.csv"


@pytest.mark.parametrize(
    ("value", "file"),
    [
        ("1", "train/1.JPG"),
        ("1.jpg", "train/1.JPG"),
        ("./train/1.jpg", "train/1.jpg"),
        ("train\\1.jpg", "train/1.jpg"),
        ("train/1", "train/1.jpeg"),
        ("café.jpg", "cafe\u0301.jpg"),
        ("cafe\u0301", "café.jpg"),
        ("a b.jpg", "a b.jpg"),
        (".hidden.jpg", ".hidden.jpg"),
        ('"new\nline.jpg"', "new\nline.jpg"),
        ("1.5", "1.5.png"),
    ],
)
def test_files_are_found_by_what_tables_call_them(tmp_path, value, file):
    source = read(made(tmp_path, f"image,label\n{value},x\nother.jpg,y\n", file, "other.jpg"))
    assert (file.replace("\n", "\\n"), "x") in ids(source)


def test_an_absolute_path_below_the_folder(tmp_path):
    made(tmp_path, f"image,label\n{tmp_path}/a.jpg,x\nb.jpg,y\n", "a.jpg", "b.jpg")
    assert ids(read(tmp_path)) == [("a.jpg", "x"), ("b.jpg", "y")]


def test_a_pattern_tells_two_files_of_one_name_apart(tmp_path):
    made(tmp_path, "id,breed\n1,x\n2,y\n", "train/1.jpg", "train/2.jpg", "test/1.jpg", "test/3.jpg")
    with pytest.raises(
        DataError, match=r"row 2: '1' may be test/1\.jpg, train/1\.jpg; say which .*train/{id}"
    ):
        read(tmp_path, image="id", label="breed")
    source = read(tmp_path, image="train/{id}.jpg", label="breed")
    assert ids(source) == [("train/1.jpg", "x"), ("train/2.jpg", "y")]
    assert source.warnings == ("images without a row in labels.csv, left out: 2: test/1.jpg, test/3.jpg",)


def test_top_folders_are_parts_where_the_table_has_none(tmp_path):
    files = ("Train/1.jpg", "Train/2.jpg", "Test/3.jpg", "Test/4.jpg")
    made(tmp_path, "image,label\n1,x\n2,y\n3,x\n4,y\n", *files)
    source = read(tmp_path)
    assert {part: len(rows) for part, rows in source.parts.items()} == {"train": 2, "test": 2}
    assert source.split == "train, test as given by top folders of labels.csv"
    assert list(read(tmp_path, split=None).parts) == ["train"]
    (tmp_path / "Test/4.jpg").rename(tmp_path / "4.jpg")
    with pytest.raises(
        DataError, match=r"images lie in 4\.jpg, Test, Train: are these train, val and test\?"
    ):
        read(tmp_path)


def test_a_file_that_is_not_there_is_a_bad_image(tmp_path):
    source = read(made(tmp_path, "image,label\na.jpg,x\n../../etc/passwd,y\n/etc/passwd,z\n", "a.jpg"))
    for row in source.parts[Split.TRAIN][:2]:
        with pytest.raises(FileNotFoundError, match="no such file below the folder"):
            row.load()


def test_repeated_rows_are_said_and_empty_lines_are_none(tmp_path):
    source = read(made(tmp_path, "image,label\na,x\na.jpg,x\n,\n\nb,y\n\n", "a.jpg", "b.jpg"))
    assert ids(source) == [("a.jpg", "x"), ("b.jpg", "y")]
    assert source.warnings == ("rows of labels.csv that repeat another: 1",)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("image,label\na,x\nb,\n", "1 fault\n  row 3: has no label\nmend or remove these rows"),
        ("image,label\n,x\nb,y\n", "row 2: names no image"),
        ("image,label\na,x\na.jpg,y\n", "row 3: a.jpg stands twice: 'x' in row 2, 'y' here; an image has"),
        (
            "image,label,split\na,x,train\na,x,test\n",
            "row 3: a stands twice: another split or group in row 2",
        ),
        ("image,label,split\na,x,holdout\n", "row 2: split 'holdout' is none of train, training, val, valid"),
        ("image,label,split\na,x,\n", "row 2: split '' is none of"),
        ("image,label,split\na,x,ood/../up\n", "row 2: split 'ood/../up' is none of"),
        ("image,label,split\na,x,test\n", "no image is of train, only of test; say so in the column split"),
        ("image,label,group\na,x,\n", "row 2: has no group, which says what stays together"),
        ('image,label\na,"x\ny"\n', "row 2: label 'x\\\\ny': its name holds a line break"),
        (f"image,label\na,{'x' * 300}\n", "its name is longer than 255 letters"),
        ("image,label\n", "it has no rows; each image needs one, with its label"),
        (
            "image,label\nz,x\n",
            r"none of the files that it names lies in .*: 'z', say; there lie a\.jpg, … \(1 more",
        ),
        ("image,label\na,x\nb,\n,z\n", "2 faults"),
    ],
)
def test_rows_with_faults_are_named(tmp_path, table, words):
    made(tmp_path, table, "a.jpg", "b.jpg")
    with pytest.raises(DataError, match=words):
        read(tmp_path)


def test_the_table_follows_links_as_folders_do_but_opens_no_path_of_its_own(tmp_path):
    made(tmp_path / "store", "", "x.jpg")
    made(tmp_path / "set", "image,label\nx.jpg,a\n../store/x.jpg,b\n", "y.jpg")
    (tmp_path / "set/linked").symlink_to("../store")
    (tmp_path / "set/up").symlink_to("..")
    source = read(tmp_path / "set")
    assert [row.id for row in source.parts[Split.TRAIN]] == ["../store/x.jpg", "linked/x.jpg"]
    with pytest.raises(FileNotFoundError):
        source.parts[Split.TRAIN][0].load()
