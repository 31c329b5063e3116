"""The records of catalog/ are complete and well formed; faults of a record are told in words."""

import re
from pathlib import Path

import pytest
import torchvision.datasets as tv

from drtune.base.errors import ConfigError
from drtune.sources.record import read_record

ALL = [
    "caltech101", "cifar10", "cifar100", "digits", "dtd", "eurosat", "fgvc_aircraft", "flowers102", "food101",
    "imagenet20", "omniglot", "oxford_pets", "stanford_cars", "stl10", "sun397", "svhn",
]  # fmt: skip
CATALOG = Path(__file__).resolve().parents[2] / "catalog"
RECORDS = {name: read_record(CATALOG / f"{name}.yaml") for name in ALL}
NO_DATA = {"dinov2_base", "random", "timm"}


def test_names():
    assert sorted(path.stem for path in CATALOG.glob("*.yaml")) == sorted({*ALL, *NO_DATA})


@pytest.mark.parametrize("name", ALL)
def test_record_is_well_formed(name):
    record = RECORDS[name]
    assert record.title
    assert record.licence
    assert record.split
    assert record.homepage.startswith("http")
    assert (record.classes if isinstance(record.classes, int) else len(record.classes)) >= 10
    assert record.files or name == "digits"
    for archive in record.files:
        assert archive.url.startswith("http")
        assert re.fullmatch(r"[\w.-]+\.(tar\.gz|tgz|zip|mat)", archive.file)
    assert len({archive.file for archive in record.files}) == len(record.files)


def test_checksums_are_torchvisions():
    own = {archive.file: archive.md5 for record in RECORDS.values() for archive in record.files}
    assert own["cifar-10-python.tar.gz"] == tv.CIFAR10.tgz_md5
    assert own["cifar-100-python.tar.gz"] == tv.CIFAR100.tgz_md5
    assert own["stl10_binary.tar.gz"] == tv.STL10.tgz_md5
    assert own["dtd-r1.0.1.tar.gz"] == tv.DTD._MD5
    assert own["food-101.tar.gz"] == tv.Food101._MD5
    assert own["SUN397.tar.gz"] == tv.SUN397._DATASET_MD5
    assert own["imagenette2-320.tgz"] == tv.Imagenette._ARCHIVES["320px"][1]
    assert own["images_background.zip"] == tv.Omniglot.zips_md5["images_background"]
    assert {own[part[1]] for part in tv.SVHN.split_list.values() if part[1] in own} == {
        tv.SVHN.split_list[split][2] for split in ("train", "test")
    }
    assert {own[file] for file, _ in tv.Flowers102._file_dict.values()} == {
        md5 for _, md5 in tv.Flowers102._file_dict.values()
    }
    assert {md5 for _, md5 in tv.OxfordIIITPet._RESOURCES} <= set(own.values())


def test_two_archives_go_by_a_digest_that_others_state():
    found = [archive.file for record in RECORDS.values() for archive in record.files if archive.sha256]
    assert found == ["fgvc-aircraft-2013b.tar.gz", "imagewoof2-320.tgz"]
    for name in ("fgvc_aircraft", "imagenet20"):
        assert "# the publisher states no digest" in (CATALOG / f"{name}.yaml").read_text()


def changed(folder: Path, edit) -> Path:
    """A copy of a record with some lines replaced."""
    path = folder / "my_pets.yaml"
    path.write_text(edit((CATALOG / "oxford_pets.yaml").read_text()))
    return path


def test_a_copy_may_be_changed(tmp_path):
    def edit(text):
        text = text.replace("layout: oxford_pets", "layout: folders").replace(
            "classes: 37", "classes: [a, b]"
        )
        return re.sub(r"md5: 95\w+", f"sha256: {'a' * 64}", text)

    record = read_record(changed(tmp_path, edit))
    assert (record.layout, record.classes) == ("folders", ["a", "b"])
    assert [archive.digest[0] for archive in record.files] == ["md5", "sha256"]


def test_all_faults_are_listed_at_once_in_words(tmp_path):
    def edit(text):
        text = text.replace("title:", "titel:").replace("classes: 37", "classes: many")
        text = text.replace("layout: oxford_pets", "layout: oxford_pet")
        text = text.replace("    into: oxford-iiit-pet\n", "    unzip: true\n", 1)
        text = re.sub(r"    md5: 95\w+\n", "", text)
        return text.replace("https://www.robots.ox.ac.uk/~vgg/data/pets/data/images", "images")

    with pytest.raises(ConfigError) as caught:
        read_record(changed(tmp_path, edit))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path}/my_pets.yaml: 7 faults"
    faults = dict(line.strip().split(maxsplit=1) for line in lines[1:])
    assert faults["titel"].startswith("unknown key; did you mean title?")
    assert faults["title"] == "is missing; expected text"
    assert faults["classes"] == "expected an integer >= 2 or a list of texts, got 'many' (text)"
    assert faults["layout"].startswith("'oxford_pet' is unknown; did you mean oxford_pets?")
    assert faults["files.0.unzip"].startswith("unknown key; known: url, sha256, md5")
    assert faults["files.0.url"].startswith("expected the address of a file: http://")
    assert faults["files.1"].startswith("give sha256 or md5 of the file, one of the two")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("md5", "5C4F", r"files\.0\.md5  expected 32 hexadecimal digits, got '5C4F' \(text\)"),
        ("sha256", "0" * 64, r"files\.0  give sha256 or md5 of the file, one of the two"),
        ("url", "https://x/..", r"files\.0\.url  expected the address of a file"),
        ("url", "ftp://x/a.zip", r"files\.0\.url  expected the address of a file"),
    ],
)
def test_faults_of_a_file(tmp_path, key, value, text):
    def edit(record):
        lines = record.splitlines()
        at = next((i for i, line in enumerate(lines) if f" {key}: " in line), None)
        entry = f"{lines[at].split(key)[0]}{key}: {value}" if at else f"    {key}: '{value}'"
        return "\n".join([*lines[:at], entry, *lines[at + 1 :]] if at else [*lines[:9], entry, *lines[9:]])

    with pytest.raises(ConfigError, match=text):
        read_record(changed(tmp_path, edit))


def test_class_names_are_counted_and_named_once(tmp_path):
    with pytest.raises(ValueError, match="it holds 36 classes, expected 37"):
        RECORDS["oxford_pets"].named(["x"] * 36)
    assert RECORDS["flowers102"].named(["1"] * 102)[0] == "pink primrose"
    with pytest.raises(ConfigError, match="classes  names a twice; name each once"):
        read_record(changed(tmp_path, lambda text: text.replace("classes: 37", "classes: [a, b, a]")))
