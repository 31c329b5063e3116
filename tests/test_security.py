"""What comes from a stranger: each kind of door is closed, and no second one is opened."""

import ast
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from drtune.backbones.model_file import load_model
from drtune.backbones.weights import checked, read_checkpoint
from drtune.base.errors import ConfigError, StudyError, TrainingError, UntrustedError, WeightsError
from drtune.base.files import inside
from drtune.base.yaml import read_yaml
from drtune.data.images import examine
from drtune.params import parse
from drtune.runs.closures import modules, tree
from drtune.runs.lifecycle import clear, exclusive
from drtune.runs.stage_key import cached_object
from drtune.serving.pointer import model_from_cache
from drtune.sources.archives import unpack
from drtune.studies.study import begin


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timm_name": "hf-hub:me/it"}, "timm .* has no model 'hf-hub:me/it'"),
        ({"timm_name": "local-dir:/x"}, "timm .* has no model 'local-dir:/x'"),
        ({"feature_dim": 1e12}, "it does not describe a model; `dvc repro train` makes one"),
    ],
)
def test_a_card_names_a_model_of_timm_of_reasonable_size(change, words, tmp_path):
    card = {
        "timm_name": "resnet10t",
        "timm_kwargs": {},
        "feature_dim": 8,
        "classes": ["a"],
        "image_size_given": False,
    }
    card["input"] = {
        "size": 32,
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "interpolation": "bilinear",
        "crop_fraction": 1,
    }
    (tmp_path / "model.json").write_text(json.dumps(card | change))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=words):
        load_model(tmp_path)


NAMES = [
    "/etc/x",
    "../x",
    "a/../../x",
    "C:\\x",
    "\\\\host\\x",
    "a\\..\\..\\x",
    "",
    "  ",
    "a\0b",
    "a\nb",
    "x" * 5000,
    ".git/config",
    "a/.GIT/hooks/x",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_from_outside_stays_below_its_root(name, tmp_path):
    with pytest.raises(UntrustedError, match="is no path below .*; refused, nothing was written"):
        inside(tmp_path, name)


def test_a_link_does_not_lead_it_out(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path)
    with pytest.raises(UntrustedError, match="leads out of .* by a link"):
        inside(tmp_path / "root", "link/x")
    assert inside(tmp_path / "root", "a/b.txt") == tmp_path / "root/a/b.txt"


def test_a_listing_of_a_cache_reaches_nothing_outside(tmp_path):
    import hashlib

    cache = tmp_path / ".dvc/cache/files/md5"

    def put(content, suffix=""):
        md5 = hashlib.md5(content).hexdigest() + suffix
        (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
        (cache / md5[:2] / md5[2:]).write_bytes(content)
        return md5

    planted = put(b"planted")
    for relpath in (str(tmp_path / "prey.txt"), "../prey.txt"):
        listing = put(json.dumps([{"md5": planted, "relpath": relpath}]).encode(), ".dir")
        with pytest.raises(UntrustedError), model_from_cache(listing, [tmp_path]):
            pass
    assert not list(tmp_path.glob("prey*"))
    other = put(json.dumps([{"md5": planted, "relpath": "model.json"}]).encode(), ".dir")
    (cache / planted[:2] / planted[2:]).write_bytes(b"changed")
    with pytest.raises(WeightsError, match="not in"), model_from_cache(other, [tmp_path]):
        pass
    with pytest.raises(UntrustedError, match="is no md5"):
        cached_object(tmp_path, "../../../etc/passwd")


def tar_of(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"abc") if info.size else None)
    return path


@pytest.mark.parametrize(
    "members",
    [
        [("../x", tarfile.REGTYPE, "")],
        [("/x", tarfile.REGTYPE, "")],
        [("a", tarfile.SYMTYPE, ".."), ("a/x", tarfile.REGTYPE, "")],
        [("a", tarfile.LNKTYPE, "/etc/passwd")],
        [("a", tarfile.FIFOTYPE, "")],
        [("d/" * 200 + "a", tarfile.SYMTYPE, "../" * 300), ("x", tarfile.REGTYPE, "")],
    ],
)
def test_an_archive_writes_nothing_outside_and_makes_no_link(members, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UntrustedError):
        unpack(tar_of(tmp_path / "a.tar", *members), tmp_path / "in")
    assert not (tmp_path / "x").exists()
    assert not [path for path in (tmp_path / "in").rglob("*") if path.is_symlink()]


def test_an_archive_that_says_it_is_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("drtune.sources.archives.MOST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"0" * 100_000)
    with pytest.raises(UntrustedError, match="holds 1 files of 100,000 bytes, allowed .* 1,000 bytes"):
        unpack(tmp_path / "a.zip", tmp_path / "in")
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"), (b"%PDF-1.4\n", "PDF")],
)
def test_what_would_start_another_program_is_no_image(start, kind, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    assert examine(start + b"showpage\n%%EOF\n").problem == f"is {kind}, no image"


def test_a_zip_bomb_among_weights_is_refused_by_its_size(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"0" * 50_000_000)
    with pytest.raises(WeightsError, match="unpacks to 50,000,000 bytes, far more than it holds; refused"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"0")
    content = path.read_bytes()
    size = content.rfind(b"PK\1\2") + 24  # in the directory, which the file's end names
    path.write_bytes(content[:size] + (50_000_000).to_bytes(4, "little") + content[size + 4 :])
    with pytest.raises(WeightsError, match="unpacks to 50,000,000 bytes, far more than it holds; refused"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.zeros(3, dtype=torch.complex64), "complex"),
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.zeros(3, device="meta"), "without data"),
        (torch.zeros(1).expand(10_000, 10_000), "larger than its data"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tensor, kind):
    with pytest.raises(WeightsError, match=f"x is a {kind} tensor; weights are plain numbers"):
        checked("x", tensor, Path("w.pth"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [1]\nb: [*a, *a]\n", "line 2 refers to"),
        ("a: " + "[" * 20_000, "more than 30 levels deep|not valid YAML"),
        ("a: " + "{b: " * 100, "more than 30 levels deep"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: !!python/object/apply:os.system [true]\n", "not valid YAML"),
    ],
)
def test_documents_are_bounded(text, words, tmp_path):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_yaml(tmp_path / "params.yaml")


def test_settings_are_finite():
    raw = read_yaml(Path(__file__).resolve().parents[1] / "params.yaml")
    raw["train"]["lr_head"] = float("inf")
    with pytest.raises(ConfigError, match="train.lr_head"):
        parse(raw, "params.yaml")


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 600, "a/b", "$(id)", "..", "."])
def test_a_study_has_a_plain_name(name):
    with pytest.raises(StudyError, match="a name has 1 to 100 letters"):
        begin(None, name, None, 1)


def test_links_in_a_checkpoint_folder_are_not_followed(tmp_path):
    prey = tmp_path / "prey"
    prey.mkdir()
    (prey / "kept").write_text("kept")
    folder = tmp_path / "ckpt"
    folder.mkdir()
    (folder / "state").symlink_to(prey)
    clear(folder)
    assert (prey / "kept").read_text() == "kept"
    assert not (folder / "state").exists()
    (folder / "lock").symlink_to(prey / "kept")
    with pytest.raises(TrainingError, match="is a link, which is not followed"), exclusive(folder):
        pass
    assert (prey / "kept").read_text() == "kept"


# the kind, not the case ------------------------------------------------------------------------------------


DOORS = {
    "Image.open": {"drtune.data.images"},
    "timm.create_model": {"drtune.backbones.architecture"},
    "tarfile.open": {"drtune.sources.archives"},
    "zipfile.ZipFile": {"drtune.sources.archives", "drtune.backbones.weights"},
}
NEVER = (
    "pickle.load",
    "pickle.loads",
    "eval",
    "exec",
    "__import__",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
)
ALONE = {"Image": "PIL", "open": "PIL.Image", "create_model": "timm", "load": "torch yaml pickle"}
"""Names that are called with their module before them, so that the test above sees them."""


def nodes(kind):
    for name in modules():
        yield from ((name, node) for node in ast.walk(tree(name)) if isinstance(node, kind))


def test_there_is_one_door_for_images_models_archives_pickles_and_yaml():
    seen = set()
    for name, call in nodes(ast.Call):
        what, text = ast.unparse(call.func), ast.unparse(call)
        seen.add(what)
        assert name in DOORS.get(what, {name}), f"{name}: {text}"
        assert what not in NEVER, f"{name}: {text}"
        assert what != "torch.load" or "weights_only=True" in text, f"{name}: {text}"
        assert what != "Image.open" or "formats=" in text, f"{name}: {text}"
        assert what != "yaml.load" or "SafeLoader" in text or "UniqueKeyLoader" in text, f"{name}: {text}"
        assert what != "YAML" or "unsafe" not in text, f"{name}: {text}"
        assert not what.endswith((".extractall", ".extract", ".imread")), f"{name}: {text}"
        assert "shell=True" not in text, f"{name}: {text}"
    assert {*DOORS, "torch.load", "yaml.load", "YAML"} <= seen, "a door that is not there guards nothing"
    for name, node in nodes(ast.ImportFrom):
        for alias in node.names:
            hidden = node.module in ALONE.get(alias.name, "").split() and alias.name != "Image"
            assert not hidden, f"{name}: {ast.unparse(node)}"
            assert not (alias.name == "Image" and alias.asname), f"{name}: {ast.unparse(node)}"


WRITTEN_BY_OTHERS = {"relpath": {"drtune.runs.outs", "drtune.runs.run_cache"}, "drtune.folder": set()}
"""Key of a listing or a tag -> modules that join what they have written themselves, a moment before."""


def test_paths_that_others_write_are_joined_by_inside_alone():
    for name, node in nodes((ast.BinOp, ast.JoinedStr)):
        text = ast.unparse(node)
        if isinstance(node, ast.JoinedStr) or isinstance(node.op, ast.Div):
            for word, own in WRITTEN_BY_OTHERS.items():
                assert repr(word) not in text or name in own, f"{name}: {text}"
    passed = [ast.unparse(call) for name, call in nodes(ast.Call) if ast.unparse(call.func) == "inside"]
    for value in ("archive.into", "archive.inner", "relpath", "below", "name"):
        assert any(value in text for text in passed), f"{value} does not pass"
