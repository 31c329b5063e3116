from pathlib import Path

import pytest
from ruamel.yaml import YAML

from drtune.base.errors import ConfigError
from drtune.base.settings import Settings
from drtune.params import load, missing_paths
from drtune.sources.settings import DataSettings
from drtune.training.settings import TrainSettings

SHIPPED = Path(__file__).resolve().parents[1] / "params.yaml"


class Toy(Settings):
    size: int

    def cross_faults(self, train):
        return (
            [("train.batch_size", f"{train.batch_size} exceeds {self.size}")]
            if train.batch_size > self.size
            else []
        )


class Empty(Settings):
    pass


def write(tmp_path, edit):
    raw = YAML(typ="safe", pure=True).load(SHIPPED)
    edit(raw)
    path = tmp_path / "params.yaml"
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(raw, stream)
    return path


def test_shipped_params_load_into_typed_frozen_sections():
    params = load(SHIPPED)
    assert params[DataSettings].source == "catalog/digits.yaml"
    assert isinstance(params[TrainSettings].lr_head, float)
    with pytest.raises(Exception, match="frozen"):
        params[TrainSettings].epochs = 3


def test_all_faults_of_all_sections_are_listed_at_once(tmp_path):
    def edit(raw):
        raw["train"]["epochs"] = "100"
        raw["data"]["shot"] = 5
        del raw["evaluate"]["bootstrap"]
        raw["trian"] = {}

    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, edit))
    text = str(caught.value)
    assert text.startswith("params.yaml: 4 faults\n")
    assert "train.epochs        expected an integer >= 1, got '100' (text)" in text
    assert "data.shot           unknown key; did you mean shots?" in text
    assert "evaluate.bootstrap  is missing; expected an integer >= 100" in text
    assert "trian               unknown key; did you mean train?" in text


def test_section_missing_or_of_another_kind(tmp_path):
    def edit(raw):
        del raw["data"]
        raw["extract"] = 3

    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, edit))
    assert "section is missing; known keys: colour, profiles" in str(caught.value)
    assert "expected a section (key: value), got 3 (integer)" in str(caught.value)


def test_methods_are_checked_where_their_settings_are_given(tmp_path):
    def edit(raw):
        raw["methods"] = {"toy": {"size": 16, "extra": 1}, "empyt": None, "empty": None}
        raw["train"]["method"] = "tyo"

    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, edit), {"toy": Toy, "empty": Empty})
    text = str(caught.value)
    assert "methods.empyt      unknown key; did you mean empty? known: toy, empty" in text
    assert "methods.toy.extra  unknown key; did you mean train? known: size, train" in text
    assert "train.method       'tyo' is unknown; did you mean toy? known: toy, empty" in text


def test_a_method_adds_faults_between_settings(tmp_path):
    def edit(raw):
        raw["methods"] = {"toy": {"size": 16}}
        raw["train"] |= {"method": "toy", "batch_size": 32}

    with pytest.raises(ConfigError, match="train.batch_size  32 exceeds 16"):
        load(write(tmp_path, edit), {"toy": Toy})


def test_a_method_replaces_settings_of_train_for_itself_alone(tmp_path):
    def edit(raw):
        raw["methods"] = {"toy": {"size": 64, "train": {"epochs": 7, "clip_norm": 1}}, "empty": None}
        raw["train"] |= {"method": "toy", "epochs": 5}

    def other(raw):
        edit(raw)
        raw["train"]["method"] = "empty"

    methods = {"toy": Toy, "empty": Empty}
    params = load(write(tmp_path, edit), methods)
    assert (params[TrainSettings].epochs, params[TrainSettings].clip_norm) == (7, 1.0)
    assert isinstance(params[TrainSettings].clip_norm, float), "as if it stood in train"
    assert params.replaced == {"epochs": 7, "clip_norm": 1}
    assert params.raw["train"]["epochs"] == 5
    assert params.method("toy").model_dump() == {"size": 64}
    params = load(write(tmp_path, other), methods)
    assert (params[TrainSettings].epochs, params.replaced) == (5, {})


def test_what_a_method_replaces_is_checked_as_train_is(tmp_path):
    def edit(raw):
        raw["methods"] = {
            "toy": {
                "size": 16,
                "train": {"method": "toy", "epochs": "7", "batch_norm": "off", "lr_haed": 1.0},
            },
            "empty": {"train": 3},
        }
        raw["train"] |= {"method": "toy", "momentum": 2}

    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, edit), {"toy": Toy, "empty": Empty})
    head, *faults = str(caught.value).splitlines()
    assert head == "params.yaml: 6 faults"
    assert [" ".join(fault.split()) for fault in faults] == [
        "train.momentum expected a number >= 0 and < 1, got 2 (integer)",
        "methods.toy.train.method cannot be replaced: train.method says whose section this is",
        "methods.toy.train.epochs expected an integer >= 1, got '7' (text)",
        "methods.toy.train.batch_norm expected 'train', 'eval' or 'converted', got 'off' (text)",
        "methods.toy.train.lr_haed unknown key; did you mean lr_head?",
        "methods.empty.train expected a section (key: value), got 3 (integer)",
    ]


def test_a_fault_between_settings_is_named_where_the_method_replaces_one(tmp_path):
    def edit(raw):
        raw["methods"] = {"toy": {"size": 16, "train": {"batch_size": 32}}}
        raw["train"] |= {"method": "toy", "batch_size": 8}

    with pytest.raises(ConfigError, match="1 fault\n  methods.toy.train.batch_size  32 exceeds 16"):
        load(write(tmp_path, edit), {"toy": Toy})


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("train", "write methods.dr_tune.train.batch_norm"),
        (None, "leave it out, and train.batch_norm holds"),
    ],
)
def test_a_params_yaml_of_before_is_told_where_its_replacements_stand_now(tmp_path, value, remedy):
    def edit(raw):
        raw["methods"]["dr_tune"] |= {"batch_norm": value}

    text = f"1 fault\n  methods.dr_tune.batch_norm  is a setting of train; {remedy}$"
    with pytest.raises(ConfigError, match=text):
        load(write(tmp_path, edit))


@pytest.mark.parametrize(
    ("section", "values", "text"),
    [
        (
            "data",
            {"val_fraction": 0.6, "test_fraction": 0.5},
            r"0\.6 \+ data\.test_fraction 0\.5 leave nothing to train on",
        ),
        ("augment", {"crop_area": [0.9, 0.5]}, r"augment\.crop_area  lower end 0\.9 exceeds upper end 0\.5"),
        ("augment", {"crop_area": [0.5, 1.5]}, r"upper end 1\.5 exceeds 1, the whole image"),
        (
            "train",
            {"optimizer": "sgd", "momentum": 0.0},
            r"train\.nesterov  true needs train\.momentum > 0, got 0",
        ),
        (
            "train",
            {"head_init": "normal", "wise_ft": 0.5},
            r"train\.wise_ft  0\.5 mixes in the start, a head of train\.head_init: normal; set that to bank",
        ),
    ],
)
def test_faults_between_settings(tmp_path, section, values, text):
    with pytest.raises(ConfigError, match=text):
        load(write(tmp_path, lambda raw: raw[section].update(values)))


def test_train_method_must_be_a_key_of_methods_where_their_types_are_not_given(tmp_path):
    path = write(tmp_path, lambda raw: raw["train"].update(method="dr_tun"))
    with pytest.raises(ConfigError, match=r"train\.method  'dr_tun' is unknown; did you mean dr_tune\?"):
        load(path)


def set_paths(source, weights):
    def edit(raw):
        raw["data"]["source"], raw["backbone"]["weights"] = source, weights

    return edit


def test_paths_that_dvc_depends_on_must_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "catalog").symlink_to(SHIPPED.parent / "catalog")
    missing = missing_paths(load(write(tmp_path, set_paths("catalog/oxford_pet.yaml", "catalog/tim.yaml"))))
    (data, data_text), (weights, weights_text) = missing
    assert (data, weights) == ("data.source", "backbone.weights")
    assert data_text.startswith(
        "'catalog/oxford_pet.yaml': no such folder or record; name the folder that holds your images, or a "
        "record; did you mean catalog/oxford_pets.yaml? known: catalog/caltech101.yaml, catalog/cifar10.yaml"
    )
    assert "timm.yaml" not in data_text
    assert weights_text == (
        "'catalog/tim.yaml': no such file; name a .safetensors or .pth file, or a recipe; did you mean "
        "catalog/timm.yaml? known: catalog/random.yaml, catalog/timm.yaml"
    )
    Path("pets").mkdir()
    Path("w.pth").touch()
    for source, weights in (("pets", "w.pth"), ("catalog/digits.yaml", "catalog/random.yaml")):
        assert missing_paths(load(write(tmp_path, set_paths(source, weights)))) == []


def test_records_and_recipes_that_are_there_are_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("weights: tim\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: \d faults\n.*title .* is missing"):
        missing_paths(load(write(tmp_path, set_paths("mine.yaml", "mine.yaml"))))
    with pytest.raises(ConfigError, match=r"mine\.yaml: 1 fault\n  weights  expected 'timm' or 'random'"):
        missing_paths(load(write(tmp_path, set_paths(".", "mine.yaml"))))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"name": "folder", "path": "/me/pets"}, "`name: folder, path: /me/pets` write `source: /me/pets`"),
        ({"name": "dtd", "path": "images"}, "`name: dtd, path: images` write `source: catalog/dtd.yaml`"),
        ({"name": "digits"}, "`name: digits` write `source: catalog/digits.yaml`"),
        ({"path": "pets"}, "`path: pets` write `source: pets`"),
    ],
)
def test_data_of_an_earlier_release_is_told_what_to_write(tmp_path, data, text):
    def edit(raw):
        del raw["data"]["source"]
        raw["data"] |= data

    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, edit))
    assert str(caught.value) == f"params.yaml: 1 fault\n  data.source  is missing; in place of {text}"


@pytest.mark.parametrize(("before", "now"), [("timm", "timm"), ("none", "random")])
def test_weights_of_an_earlier_release_are_told_what_to_write(tmp_path, before, now):
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, set_paths("pets", before)))
    text = f"backbone.weights  in place of `weights: {before}` write `weights: catalog/{now}.yaml`"
    assert str(caught.value) == f"params.yaml: 1 fault\n  {text}"


@pytest.mark.parametrize(
    "key", ["train.batch_size", "evaluate.calibration_bins", "methods.supcon.projection_dim"]
)
def test_sizes_that_no_machine_holds_are_refused(tmp_path, key):
    def edit(raw):
        *parents, name = key.split(".")
        for parent in parents:
            raw = raw[parent]
        raw[name] = 10**17

    with pytest.raises(ConfigError, match=rf"{key}\s+expected .*1000"):
        load(write(tmp_path, edit))
