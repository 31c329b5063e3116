"""The table of published sets is complete and well formed."""

import re

import pytest
import torchvision.datasets as tv

from drtune.sources.catalog import CATALOG

ALL = [
    "cifar10",
    "cifar100",
    "oxford_pets",
    "flowers102",
    "dtd",
    "caltech101",
    "stanford_cars",
    "fgvc_aircraft",
]
ALL += ["food101", "eurosat", "svhn", "stl10", "sun397", "omniglot", "imagenet20"]


def test_names():
    assert list(CATALOG) == ALL


@pytest.mark.parametrize("name", ALL)
def test_record_is_well_formed(name):
    record = CATALOG[name]
    assert record.title
    assert record.licence
    assert record.split
    assert record.homepage.startswith("http")
    assert record.classes >= 10
    assert record.archives
    for archive in record.archives:
        assert archive.url.startswith("http")
        assert re.fullmatch(r"[\w.-]+\.(tar\.gz|tgz|zip|mat)", archive.file)
        assert archive.md5 is None or re.fullmatch(r"[0-9a-f]{32}", archive.md5)
    assert len({archive.file for archive in record.archives}) == len(record.archives)


def test_checksums_are_torchvisions():
    own = {archive.file: archive.md5 for record in CATALOG.values() for archive in record.archives}
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


def test_only_two_archives_go_without_a_checksum():
    without = [a.file for record in CATALOG.values() for a in record.archives if a.md5 is None]
    assert without == ["fgvc-aircraft-2013b.tar.gz", "imagewoof2-320.tgz"]
