import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from drtune.base.errors import DataError
from drtune.base.files import read_json, sha256_of
from drtune.data.packed import Split, open_split
from pipeline import download, paths

CARD = paths.DATASET / "dataset.json"


def test_it_packs_the_images_and_tells_the_run(stage, capsys):
    made = stage()
    download.main(*made)
    card = read_json(CARD)
    assert card["classes"] == ["blue", "green", "red"]
    assert card["counts"] == {"train": 18, "val": 9, "test": 9}
    assert sorted(path.name for path in paths.DATASET.iterdir()) == [
        "dataset.json", "test.arrow", "train.arrow", "val.arrow",
    ]  # fmt: skip
    assert made.run.params["data"]["shots"] == 6
    assert made.run.metrics == [({"images_train": 18, "images_val": 9, "images_test": 9}, 0)]
    assert made.run.artifacts == [str(CARD)]
    assert "3 classes; images: train 18, val 9, test 9\n" in capsys.readouterr().out


def test_it_warns_of_classes_short_of_images(stage, capsys):
    download.main(*stage({"data.shots": 7}))
    lines = capsys.readouterr().out.splitlines()
    warning = "warning: 3 of 3 classes have fewer than 7 train images: blue (6), green (6), red (6)"
    assert warning in lines
    assert lines[-1] == warning.replace("7 train", "5 test").replace("(6)", "(3)")


def test_the_same_images_and_settings_give_the_same_bytes(stage):
    sums = []
    for seed in (0, 0, 1):
        download.main(*stage({"data.seed": seed}))
        sums.append([sha256_of(path) for path in sorted(paths.DATASET.iterdir())])
    assert sums[0] == sums[1] != sums[2]


def test_a_fault_leaves_the_last_data_set_as_it_was(stage, folder):
    download.main(*stage())
    before = CARD.read_bytes()
    (folder / "images/red/0.png").write_bytes(b"cut")
    with pytest.raises(DataError, match="red/0.png"):
        download.main(*stage())
    assert CARD.read_bytes() == before
    assert len(open_split(paths.DATASET, Split.TRAIN)) == 18
    assert [path.name for path in paths.DATASET.parent.iterdir()] == ["dataset"]


def test_a_missing_folder_ends_with_words_and_a_failed_run(
    folder, tiny_params, as_script, empty_database, capsys
):
    shutil.copy(empty_database, "mlflow.db")
    tiny_params(folder / "params.yaml", {"data.source": "nowhere"})
    assert as_script("download") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("download: ")]
    assert "nowhere" in line
    assert not Path("data").exists()
    assert not any(Path(".drtune/ckpt").iterdir())
    with closing(sqlite3.connect("mlflow.db")) as store:
        assert store.execute("select name, status from runs").fetchall() == [("download nowhere", "FAILED")]
