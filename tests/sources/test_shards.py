"""Which shards are which part, and what their labels are."""

import pytest

from drtune.base.errors import ConfigError, UntrustedError
from drtune.sources.record import read_record
from drtune.sources.shards import Columns, Row, matching, read_shards


def of_labels(**parts):
    """A listing of one shard a part, whose rows have these labels."""

    def read(path, name, columns):
        assert columns == Columns()
        for number, label in enumerate(parts[path.name]):
            yield Row(f"{name}/{number}", label, lambda: b"x")

    def listing(tree, names=None):
        for part in parts:
            (tree / part).touch()
        return read_shards(tree, read, {part: part for part in parts}, Columns(), names)

    return listing


def test_numbers_are_labels_and_names_are_numbered(tmp_path):
    classes, parts = of_labels(train=[2, 0, 1], test=[1])(tmp_path)
    assert classes == ["0", "1", "2"]
    assert [(row.id, row.label) for row in parts["train"]] == [("train/0", 2), ("train/1", 0), ("train/2", 1)]
    classes, parts = of_labels(train=["dog", "cat"], test=["dog"])(tmp_path)
    assert (classes, [row.label for row in parts["train"]]) == (["cat", "dog"], [1, 0])
    classes, parts = of_labels(train=["dog", "cat"])(tmp_path, ["dog", "cat"])
    assert (classes, [row.label for row in parts["train"]]) == (["dog", "cat"], [0, 1])


def test_labels_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="test has rows of label -1, which stands for none; leave that part"):
        of_labels(train=["a", "b"], test=[-1])(tmp_path)
    with pytest.raises(ValueError, match="label 'cta' is none of the record's classes"):
        of_labels(train=["cat", "cta"])(tmp_path, ["cat", "dog"])


def test_files_of_a_pattern_are_all_there(tmp_path):
    for number in (0, 2):
        (tmp_path / f"train-{number:05d}-of-00003.parquet").touch()
    (tmp_path / "plain-0.tar").touch()
    assert [path.name for path in matching(tmp_path, "plain-*.tar")] == ["plain-0.tar"]
    with pytest.raises(ValueError, match=r"2 of the 3 files train-\*-of-00003 are there"):
        matching(tmp_path, "train-*")
    with pytest.raises(ValueError, match="no file matches val-*"):
        matching(tmp_path, "val-*")
    for pattern in ("../*", "/etc/*"):
        with pytest.raises(UntrustedError, match="is no path below"):
            matching(tmp_path, pattern)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("train: data/train-*, ", ""), r"parts  say which files are which part, such as train: .*train is"),
        (("test:", "dev:"), r"parts  'dev' is unknown; known: train, val, test, ood/NAME"),
        (("test:", "ood/x-001:"), r"parts  'ood/x-001' is unknown; .*NAME not ending in -NNN"),
        (("test:", "ood/../x:"), r"parts  'ood/../x' is unknown"),
        (
            ("layout: parquet", "layout: folders"),
            r"parts  are for parquet and webdataset; layout folders has",
        ),
        (("layout: parquet", "layout: parkett"), r"layout  'parkett' is unknown; did you mean parquet?"),
        (("OWNER/beans@", "beans@"), r"hub  expected OWNER/NAME@COMMIT with the 40 digits of a commit"),
        ((f"@{'a' * 40}", "@main"), r"hub  expected OWNER/NAME@COMMIT .*git ls-remote https://huggingface"),
        (("hub:", "# hub:"), r"files  are missing; list them, or give hub: OWNER/NAME@COMMIT"),
        (
            ("hub:", f"files: [{{url: 'https://x/a.zip', md5: {'a' * 32}}}]\nhub:"),
            r"files  are given beside hub",
        ),
        (
            ("layout: parquet\nparts", "layout: dtd\nx"),
            r"files  of layout dtd are archives: list them in place",
        ),
        (("parts:", "columns: {imag: img}\nparts:"), r"columns\.imag  unknown key; did you mean image?"),
    ],
)
def test_faults_of_a_record(beans, tmp_path, change, text):
    record = beans
    assert change[0] in record
    (tmp_path / "beans.yaml").write_text(record)
    assert read_record(tmp_path / "beans.yaml").hub == f"OWNER/beans@{'a' * 40}"
    (tmp_path / "beans.yaml").write_text(record.replace(*change))
    with pytest.raises(ConfigError, match=text):
        read_record(tmp_path / "beans.yaml")
