import shutil

import pytest
from typer.testing import CliRunner

from drtune.cli.main import app


@pytest.fixture
def call(folder, monkeypatch):
    """Run `drtune data ...` in the toy task's folder."""
    monkeypatch.setenv("DVC_ROOT", str(folder))
    return lambda *arguments: CliRunner().invoke(app, ["data", *arguments])


def test_it_writes_one_page_and_says_what_it_found(call, folder):
    done = call()
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-4:] == [
        "images: 3 classes; images: train 18, val 9, test 9",
        "warning: 3 of 3 classes have fewer than 5 val images: blue (3), green (3), red (3)",
        "warning: 3 of 3 classes have fewer than 5 test images: blue (3), green (3), red (3)",
        "page: data/report.html",
    ]
    page = (folder / "data/report.html").read_text()
    assert "36 images in 3 classes; read from images" in page
    assert "http" not in page, "it opens without a network"
    assert not (folder / "data/dataset").exists()


def test_a_file_that_stops_the_pipeline_is_on_the_page(call, folder):
    shutil.copy(folder / "params.yaml", folder / "red.jpg")
    (folder / "red.jpg").rename(folder / "images/red/notes.jpg")
    done = call("--out", "page.html")
    assert done.exit_code == 1
    assert "`dvc repro` will stop at the files that cannot be used; the page names them" in done.output
    assert "<td>red/notes.jpg</td><td>not an image" in (folder / "page.html").read_text()


def test_a_folder_that_cannot_be_understood_is_told_in_words(call, folder, tiny_params):
    tiny_params(folder / "params.yaml", {"data.source": "nowhere"})
    done = call()
    assert done.exit_code == 2
    assert "data.source 'nowhere': no such folder" in done.output
    assert not (folder / "data").exists()
