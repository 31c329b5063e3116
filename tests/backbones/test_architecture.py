"""Arguments of a model describe an architecture, from whichever door they come."""

import json
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from drtune.backbones.architecture import check_arguments, create_encoder
from drtune.backbones.model_file import load_model, save_model
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.base.errors import ConfigError, DRTuneError

HOSTILE = {
    "pretrained": True,
    "pretrained_cfg": {"url": "data:,x"},
    "pretrained_cfg_overlay": {"file": "/etc/passwd"},
    "checkpoint_path": "/etc/passwd",
    "cache_dir": "/tmp",
    "pretrained_custom_load": True,
    "pretrained_strict": False,
    "features_only": True,
    "model_cfg": {"a": 1},
    "feature_cfg": {"a": 1},
    "kwargs_filter": "a",
    "hf_hub_id": "me/it",
    "weights_file": "x",
    "source_url": "x",
    "num_classes": 5,
    "__class__": 1,
    "a.b": 1,
}
BACKBONE = {
    "name": "resnet10t", "weights": "catalog/random.yaml", "kwargs": None, "image_size": 32, "mean": None,
    "std": None, "interpolation": None, "crop_fraction": None, "seed": 0,
}  # fmt: skip
ALLOWED = {
    "channels": [8, 8, 16, 16], "stem_width": 8, "pad_type": "same", "bn_eps": 0.001, "img_size": 96,
    "depths": [2, 2],
    "drop_path_rate": 0.1, "global_pool": "avg", "act_layer": "gelu", "reg_tokens": 4, "class_token": False,
    "init_values": 1e-5, "pretrained_window_sizes": [0, 0, 0, 0], "norm_layer": None, "patch_size": [16, 16],
    "use_checkpoint": False, "transformer_drop_path": True,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_arguments_of_factories_are_refused_from_settings_headers_and_cards(name, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    refused = pytest.raises(
        DRTuneError, match="no argument of an architecture and is refused|allowed: a number"
    )
    with refused:
        build_backbone(BackboneSettings(**BACKBONE | {"kwargs": {name: HOSTILE[name]}}))
    path = tmp_path / "weights.safetensors"
    record = {"name": "resnet10t", "kwargs": {name: HOSTILE[name]}}
    save_file({"a": torch.zeros(1)}, path, metadata={"backbone": json.dumps(record)})
    with refused:
        build_backbone(BackboneSettings(**BACKBONE | {"weights": str(path)}))
    settings = BackboneSettings(**BACKBONE | {"kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8}})
    backbone = build_backbone(settings)
    save_model(tmp_path, backbone.classifier(2), settings, backbone.spec, ["a", "b"], {})
    card = json.loads((tmp_path / "model.json").read_text())
    card["timm_kwargs"][name] = HOSTILE[name]
    (tmp_path / "model.json").write_text(json.dumps(card))
    with refused:
        load_model(tmp_path)
    assert sorted(part.name for part in tmp_path.iterdir()) == [
        "model.json", "model.safetensors", "weights.safetensors",
    ]  # fmt: skip


def test_arguments_of_architectures_pass():
    check_arguments(ALLOWED, "here")


@pytest.mark.parametrize(
    "value",
    ["/etc/passwd", "http://x", "a b", "x" * 41, float("inf"), 1e9, [[[[1]]]], [0] * 300, {"a": 1}, b"x"],
)
def test_values_are_numbers_and_plain_words(value):
    with pytest.raises(ConfigError, match=r"here: stem_width is .*; allowed: a number up to 1e\+06"):
        check_arguments({"stem_width": value}, "here")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {"channels": [4000] * 4}),
        ("resnet10t", {"layers": [1_000_000, 1, 1, 1]}),
        ("vit_tiny_patch16_224", {"depth": 1_000_000}),
        ("vit_tiny_patch16_224", {"img_size": 1_000_000}),
    ],
)
def test_a_network_that_is_too_large_is_not_made(name, arguments, tmp_path):
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=f"here: {name} needs .* make the network smaller"):
        create_encoder(name, arguments, "here", 50_000_000)
    assert time.perf_counter() - start < 30


def test_drawing_a_network_up_changes_no_number_of_it():
    torch.manual_seed(0)
    drawn = create_encoder("resnet10t", {}, "here")
    torch.manual_seed(0)
    plain = timm.create_model("resnet10t", num_classes=0)
    for one, other in zip(drawn.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_arguments_of_a_folder_of_timm_are_those_of_an_architecture(tmp_path):
    card = {
        "architecture": "resnet10t",
        "num_classes": 0,
        "pretrained_cfg": {},
        "model_args": {"device": "meta"},
    }
    (tmp_path / "config.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match="its config.json: 'device' is no argument of an architecture"):
        create_encoder(f"local-dir:{tmp_path}", {}, "here")
