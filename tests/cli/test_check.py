"""`drtune check`: what it passes does not fail later for a reason that it could have seen."""

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drtune.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
SPACE = {"train.lr_head": {"low": 0.01, "high": 1.0, "log": True}}


@pytest.fixture
def checked(tmp_path, tiny_params, squares, monkeypatch):
    """Check settings of a toy project, with changes by dotted name; its images are in `images`."""
    squares(tmp_path / "images")
    monkeypatch.chdir(tmp_path)

    def run(change=None):
        tiny_params(tmp_path / "params.yaml", {"study.space": SPACE, **(change or {})})
        before = sorted(tmp_path.rglob("*"))
        result = CliRunner().invoke(app, ["check"])
        assert sorted(tmp_path.rglob("*")) == before
        return result

    return run


def test_check_accepts_the_shipped_settings(monkeypatch):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, ["check", str(ROOT / "params.yaml")])
    assert result.exit_code == 0
    assert "no faults" in result.output


def test_check_lists_every_fault_and_exits_with_2(tmp_path):
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    path.write_text(text.replace("  epochs: ", "  epocs: ").replace("  dr_tune:  ", "  dr_tun:  "))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 2
    assert "train.epocs      unknown key; did you mean epochs?" in result.output
    assert "train.epochs     is missing; expected an integer >= 1" in result.output
    assert "methods.dr_tun   unknown key; did you mean dr_tune?" in result.output
    assert "params.yaml: 4 faults" in result.output


def test_check_names_paths_that_do_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["check", str(ROOT / "params.yaml")])
    assert result.exit_code == 2
    assert "params.yaml: 2 faults" in result.output
    assert "data.source       'catalog/digits.yaml': no such folder or record" in result.output


def test_a_sound_project_has_no_faults(checked):
    result = checked()
    assert (result.exit_code, result.output) == (0, "params.yaml: no faults\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone.name": "resnet5"}, "backbone.name: timm .* has no model 'resnet5'; did you mean"),
        ({"backbone.weights": str(ROOT / "README.md")}, "backbone.weights: README.md has an unknown ending"),
        ({"data.group": "nobody"}, "data.group: 'nobody' is no column of a labels.csv, and as a"),
        ({"data.labels": "train.csv"}, "data.labels: images holds no table 'train.csv'"),
        ({"study.sampler": "grid"}, "study.sampler  expected 'auto', 'gp', 'tpe' or 'random', got 'grid'"),
        ({"train.precision": "fp16"}, "train.precision: cpu does not compute fp16"),
        (
            {"train.batch_size": 1, "methods.dr_tune.train.batch_norm": "train"},
            "train.batch_size 1 makes batches of a single one of the 18 training images",
        ),
    ],
)
def test_what_would_fail_later_is_said_now(checked, change, words):
    result = checked(change)
    assert result.exit_code == 2
    assert re.search(words, result.output)


def test_faults_of_several_kinds_come_at_once(checked, tmp_path):
    (tmp_path / "images/test").mkdir()
    change = {"backbone.name": "resnet5", "study.sampler": "grid", "train.precision": "fp16"}
    output = checked(change).output
    for words in (
        "holds test beside blue, green, red",
        "no model 'resnet5'",
        "study.sampler",
        "compute fp16",
    ):
        assert words in output


def test_links_that_lead_nowhere_and_pipes(checked, tmp_path):
    (tmp_path / "images/red/lost.jpg").symlink_to("/nowhere/1.jpg")
    os.mkfifo(tmp_path / "images/blue/.pipe")
    output = checked().output
    assert "at which DVC stops or hangs: red/lost.jpg, blue/.pipe; remove them" in output


def test_files_that_are_no_images(checked, tmp_path):
    (tmp_path / "images/red/notes.txt").write_text("hello")
    (tmp_path / "images/red/empty.png").touch()
    (tmp_path / "images/red/0.png").rename(tmp_path / "images/red/no_ending")
    result = checked()
    assert "images: 2 images that cannot be used" in result.output
    assert "red/empty.png: empty file" in result.output
    assert "red/notes.txt: not an image" in result.output
    assert checked({"data.on_bad_image": "skip"}).exit_code == 0


def test_files_of_a_table_that_are_not_there(checked, tmp_path):
    rows = [f"{colour}/{number}.png,{colour}" for colour in ("red", "blue") for number in range(13)]
    (tmp_path / "images/labels.csv").write_text("image,label\n" + "\n".join(rows))
    output = checked().output
    assert "images: 2 images that cannot be used" in output
    assert "blue/12.png: cannot be read: no such file below the folder" in output


def test_warnings_of_the_images_are_said(checked, tmp_path):
    (tmp_path / "images/0.png").write_bytes(b"")
    result = checked()
    assert result.exit_code == 0
    assert "warning: passed over: 1 images that lie beside the class folders: 0.png" in result.output


def test_nothing_is_fetched(checked):
    catalog = {
        "data.source": str(ROOT / "catalog/dtd.yaml"),
        "backbone.weights": str(ROOT / "catalog/timm.yaml"),
    }
    assert checked(catalog).exit_code == 0
