"""Folders of Hugging Face: transformers' and timm's own, whole and in parts."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from small import GIVEN, TINY

from drtune.backbones.folder import described, files_of, read_weights
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.wrappings import Input
from drtune.backbones.zoo import build_backbone
from drtune.base.errors import ConfigError, WeightsError


def build(name, kwargs, weights, **change):
    return build_backbone(
        BackboneSettings(**{"name": name, "kwargs": kwargs, "weights": str(weights), **GIVEN, **change})
    )


def state(name="vit_tiny_patch16_224", **kwargs):
    torch.manual_seed(0)
    return {
        k: v.contiguous()
        for k, v in timm.create_model(name, num_classes=0, **(kwargs or TINY)).state_dict().items()
    }


def write(folder, config, preprocessor=None, weights="model.safetensors"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    save_file(state(), folder / weights)
    return folder


def test_a_folder_says_its_input_and_its_heads(tmp_path):
    given = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 2,
        "size": {"height": 32, "width": 32},
    }
    folder = write(tmp_path / "m", {"model_type": "vit", "num_attention_heads": 2}, given)
    built = build("vit_tiny_patch16_224", TINY, folder)
    assert (built.spec.mean, built.spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (built.spec.size, built.spec.interpolation, built.spec.crop_fraction) == (32, "bilinear", 1.0)
    assert built.taken.startswith(
        "weights: m read as timm, 30 tensors; input as m, its config.json has it: 32 px"
    )
    with pytest.raises(
        WeightsError, match=r"m, config.json, was trained with num_heads 2, .* with 4; .*num_heads: 2"
    ):
        build("vit_tiny_patch16_224", {**TINY, "num_heads": 4}, folder)
    with pytest.raises(
        WeightsError, match=r"m, its config.json says mean \[0.1.*augreg_in21k says mean \[0.5"
    ):
        build("vit_tiny_patch16_224.augreg_in21k", TINY, folder)
    assert build("vit_tiny_patch16_224", TINY, folder, mean=[0, 0, 0], std=[1, 1, 1]).spec.mean == (0, 0, 0)


@pytest.mark.parametrize(
    ("config", "given", "expected"),
    [
        ({"image_size": 224}, {"do_normalize": False}, Input((0, 0, 0), (1, 1, 1), None, None, 224)),
        ({}, {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224},
              "do_center_crop": True, "image_mean": 0.5, "image_std": 0.25, "resample": 3},
         Input((0.5,) * 3, (0.25,) * 3, "bicubic", 0.875, 224)),
        ({}, {"size": {"shortest_edge": 224}, "crop_pct": 0.9}, Input(None, None, None, 0.9, 224)),
        ({"architecture": "x", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3,
          "input_size": [3, 96, 96], "interpolation": "bilinear", "crop_pct": 0.95}}, {},
         Input((0.1,) * 3, (0.2,) * 3, "bilinear", 0.95, 96)),
        ({"vision_config": {"image_size": 336}}, {}, Input(size=336)),
    ],
    ids=["plain", "cropped", "share", "timm", "vision"],
)  # fmt: skip
def test_what_folders_say_of_their_input(config, given, expected, tmp_path):
    assert described(write(tmp_path / "m", config, given))[0] == expected


@pytest.mark.parametrize("value", ["x", [1, 2], {"a": 1}])
def test_values_that_are_none_are_refused(value, tmp_path):
    folder = write(tmp_path / "m", {}, {"image_mean": value})
    with pytest.raises(
        WeightsError, match="holds a value that is none of its kind .*; correct it, or give backbone.mean"
    ):
        described(folder)


def test_parts_and_their_listing(tmp_path):
    folder, whole = write(tmp_path / "m", {}, weights="whole.safetensors"), state()
    assert files_of(folder) == [folder / "whole.safetensors"]
    (folder / "whole.safetensors").unlink()
    names = sorted(whole)
    listing = folder / "model.safetensors.index.json"
    parts = {f"model-{part}-of-2.safetensors": names[part::2] for part in range(2)}
    places = {name: file for file, held in parts.items() for name in held}
    listing.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    with pytest.raises(
        WeightsError, match="lacks 2 of the 2 parts that model.safetensors.index.json lists: model-0-of-2"
    ):
        files_of(folder)
    for file, held in parts.items():
        save_file({name: whole[name] for name in held}, folder / file)
    found = read_weights(folder)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    with pytest.raises(WeightsError, match="is a listing; name the folder that it lies in"):
        read_weights(listing)
    listing.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(
        WeightsError, match=r"lists '../secret.safetensors', which is no name of a file in there"
    ):
        files_of(folder)
    listing.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(WeightsError, match="lists no files under weight_map"):
        files_of(folder)


def test_a_folder_of_several_weights_or_none(tmp_path):
    with pytest.raises(
        WeightsError, match="files of weights there: none; name the one you mean, or copy the whole folder"
    ):
        files_of(tmp_path)
    for name in ("a.pth", "b.bin"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"there: a.pth, b.bin; name the one you mean"):
        files_of(tmp_path)


def test_a_folder_of_timm_by_name(tmp_path):
    own = {
        "mean": [0.1] * 3,
        "std": [0.2] * 3,
        "input_size": [3, 32, 32],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": TINY,
        "pretrained_cfg": own,
        "num_classes": 0,
    }
    folder = write(tmp_path / "m", config)
    built = build(f"local-dir:{folder}", None, folder)
    assert (built.settings.name, built.settings.kwargs) == ("vit_tiny_patch16_224", TINY)
    assert (built.spec.size, built.spec.mean) == (32, (0.1, 0.1, 0.1))
    assert built.fingerprint == build("vit_tiny_patch16_224", TINY, folder).fingerprint
    with pytest.raises(ConfigError, match="name the same folder there, .*m, so that DVC watches it"):
        build(f"local-dir:{folder}", None, tmp_path)
    other = write(tmp_path / "o", {"model_type": "vit"})
    with pytest.raises(
        ConfigError, match="its config.json names no model of timm .*; set backbone.name to timm's name"
    ):
        build(f"local-dir:{other}", None, other)
    (folder / "config.json").write_text(json.dumps({**config, "model_args": {"cache_dir": "/tmp"}}))
    with pytest.raises(ConfigError, match="'cache_dir' is no argument of an architecture"):
        build(f"local-dir:{folder}", None, folder)


def test_images_have_three_channels():
    with pytest.raises(
        ConfigError, match="in_chans 1: images are always given as red, green and blue, .*leave it out"
    ):
        build("resnet10t", {"in_chans": 1}, "catalog/random.yaml")
