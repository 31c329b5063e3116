import hashlib
import json
import shutil

import pytest

from drtune.base.errors import DRTuneError, WeightsError
from drtune.runs.outs import describe_out, folder_listing
from drtune.serving.pointer import _load_pyfunc, model_from_cache


@pytest.fixture
def project(tmp_path, model_folder):
    """A DVC repository whose cache holds the model."""
    (tmp_path / "project" / ".dvc").mkdir(parents=True)
    held = tmp_path / "project/.dvc/cache/files/md5"
    listing = folder_listing(model_folder)
    for part in listing:
        put = held / part["md5"][:2] / part["md5"][2:]
        put.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model_folder / part["relpath"], put)
    md5 = describe_out(model_folder)["md5"]
    (held / md5[:2]).mkdir(exist_ok=True)
    (held / md5[:2] / md5[2:]).write_text(json.dumps(listing, sort_keys=True))
    return tmp_path / "project", md5


def test_the_files_are_those_of_the_cache_and_go_again(project, model_folder):
    root, md5 = project
    with model_from_cache(md5, [root.parent, root]) as folder:
        names = {path.name for path in folder.iterdir()}
        assert names == {"model.json", "model.safetensors"}
        assert describe_out(folder) == describe_out(model_folder)
    assert not folder.exists()


def test_a_pointer_loads_from_anywhere_as_long_as_the_project_is_there(
    project, tmp_path, monkeypatch, pictures
):
    root, md5 = project
    (tmp_path / "pointer.json").write_text(json.dumps({"md5": md5, "root": str(root)}))
    monkeypatch.chdir(tmp_path)
    here = _load_pyfunc(str(tmp_path / "pointer.json"), {"device": "cpu"})
    assert here.probabilities(pictures).shape == (3, 3)
    moved = root.rename(tmp_path / "moved")
    with pytest.raises(WeightsError, match="not in no DVC cache; fetch it with `drtune restore`"):
        _load_pyfunc(str(tmp_path / "pointer.json"))
    monkeypatch.chdir(moved)
    assert _load_pyfunc(str(tmp_path / "pointer.json")).classes == ["red", "green", "blue"]


def test_a_cache_that_lacks_one_file_is_no_cache(project, model_folder):
    root, md5 = project
    part = folder_listing(model_folder)[0]["md5"]
    (root / ".dvc/cache/files/md5" / part[:2] / part[2:]).unlink()
    with (
        pytest.raises(WeightsError, match=f"model {md5}: not in .*cache; .*drtune model materialize"),
        model_from_cache(md5, [root]),
    ):
        pass


PART = {"md5": hashlib.md5(b"x").hexdigest()}


@pytest.mark.parametrize(
    "listing",
    [
        "{", "[" * 100_000, "null", "[1]", '{"a": 1}', "\xff",
        *(
            json.dumps([PART | {"relpath": name} for name in names])
            for names in (["."], ["a", "a/b"], ["a/b", "a"], [None], [3], ["x" * 300], ["a/" * 2000])
        ),
        json.dumps([{"relpath": "a"}]), json.dumps([{"relpath": "a", "md5": "../../x"}]),
    ],
)  # fmt: skip
def test_a_listing_that_is_none_is_told_in_words(tmp_path, listing):
    held = tmp_path / ".dvc/cache/files/md5"
    md5 = hashlib.md5(listing.encode("latin1")).hexdigest() + ".dir"
    for name, content in ((md5, listing.encode("latin1")), (PART["md5"], b"x")):
        (held / name[:2]).mkdir(parents=True, exist_ok=True)
        (held / name[:2] / name[2:]).write_bytes(content)
    with pytest.raises(DRTuneError), model_from_cache(md5, [tmp_path]):
        pass


def test_a_listing_that_is_not_its_md5_is_not_taken(project):
    root, md5 = project
    path = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    path.write_text(path.read_text().replace("model.json", "other.json"))
    with pytest.raises(WeightsError, match="not in"), model_from_cache(md5, [root]):
        pass


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"md5": 1, "root": 1}', '{"md5": "x", "root": "/"}'])
def test_a_pointer_that_is_none_is_told_in_words(tmp_path, text):
    (tmp_path / "pointer.json").write_text(text)
    with pytest.raises(DRTuneError, match="no pointer to a model|not valid JSON|no md5 of DVC's"):
        _load_pyfunc(str(tmp_path / "pointer.json"))
