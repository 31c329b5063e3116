"""Weights from the hub, or from its local cache."""

import json
import time

import pytest
from huggingface_hub import constants as hub
from safetensors.torch import save_file
from small import CATALOG, flat, settings

from drtune.backbones.zoo import build_backbone
from drtune.base.errors import ConfigError, WeightsError
from drtune.base.files import sha256_of


def test_unreachable_hub_says_at_once_which_file_to_put_where(monkeypatch, tmp_path):
    monkeypatch.setattr("drtune.backbones.hub.hub.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("drtune.backbones.hub.hub.HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        build_backbone(
            settings(name="resnet18.a1_in1k", kwargs={}, weights=str(CATALOG / "timm.yaml"), image_size=None)
        )
    text = str(caught.value)
    assert "could not get the weights of resnet18.a1_in1k from timm/resnet18.a1_in1k" in text
    assert "http://127.0.0.1:9 does not answer ([Errno 111] Connection refused)" in text
    assert f"set backbone.weights to the path; or fill the local cache, {tmp_path}" in text
    assert time.monotonic() - started < 10
    assert not hub.HF_HUB_OFFLINE


COMMITS = ["a" * 40, "b" * 40]


@pytest.fixture
def published(monkeypatch, tmp_path):
    """The hub's local cache with two revisions of timm's resnet10t, the first of which is the newest."""
    monkeypatch.setattr("drtune.backbones.hub.hub_silence", lambda: "nobody is asked")
    monkeypatch.setattr("drtune.backbones.hub.hub.HF_HUB_CACHE", str(tmp_path / "hub"))
    home = tmp_path / "hub" / "models--timm--resnet10t.c3_in1k"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMITS[0])
    files = []
    for seed, commit in enumerate(COMMITS):
        files.append(home / "snapshots" / commit / "model.safetensors")
        files[-1].parent.mkdir(parents=True)
        save_file(flat(build_backbone(settings(seed=seed)).encoder), files[-1])

    def build(recipe="", **change):
        path = tmp_path / "my_recipe.yaml"
        path.write_text(f"weights: timm\n{recipe}")
        return build_backbone(settings(weights=str(path), seed=9, **change))

    return build, files


def test_published_weights_must_fit_the_arguments(published):
    build, _ = published
    assert build().fingerprint == build_backbone(settings(seed=0)).fingerprint
    channels = {"channels": [8, 8, 16, 24], "stem_width": 8}
    with pytest.raises(
        WeightsError, match=r"publishes for resnet10t do not fit it .*set backbone.kwargs to null"
    ):
        build(kwargs=channels)
    with pytest.raises(ConfigError, match=r"resnet10t does not take .*chanels"):
        build(kwargs={"chanels": [8]})


def test_a_recipe_pins_revision_and_file(published):
    build, files = published
    second = build_backbone(settings(seed=1)).fingerprint
    assert build(f"revision: {COMMITS[1]}").fingerprint == second
    assert build(f"revision: {COMMITS[1]}\nsha256: {sha256_of(files[1])}").fingerprint == second
    with pytest.raises(
        WeightsError, match=f"has sha256 {sha256_of(files[0])}, the recipe says {sha256_of(files[1])}"
    ):
        build(f"sha256: {sha256_of(files[1])}")
    with pytest.raises(WeightsError, match="could not get the weights of resnet10t"):
        build(f"revision: {'c' * 40}")


def test_pins_need_weights_on_the_hub(published):
    with pytest.raises(
        WeightsError,
        match="timm has no weights of beit3_giant_patch14_224 on the Hugging Face hub; set both to null",
    ):
        published[0]("revision: main", name="beit3_giant_patch14_224", kwargs=None)


def hub_folder(tmp_path, **files):
    """The hub's local cache with one revision of facebook/small."""
    home = tmp_path / "hub" / "models--facebook--small"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMITS[0])
    folder = home / "snapshots" / COMMITS[0]
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.json").write_text(json.dumps(text))
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("drtune.backbones.hub.hub_silence", lambda: "nobody is asked")
    monkeypatch.setattr("drtune.backbones.hub.hub.HF_HUB_CACHE", str(tmp_path / "hub"))


ENCODER = {"architecture": "resnet10t", "model_args": {"channels": [8, 8, 16, 16], "stem_width": 8}}


def test_a_model_of_the_hub_by_recipe_and_by_name(offline, tmp_path):
    given = {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "size": {"shortest_edge": 64}, "resample": 2}
    folder = hub_folder(tmp_path, config=ENCODER, preprocessor_config=given)
    source = build_backbone(settings(seed=3))
    save_file(flat(source.encoder), folder / "model.safetensors")
    recipe = tmp_path / "small.yaml"
    recipe.write_text("weights: hub\nrepository: facebook/small\n")
    built = build_backbone(settings(weights=str(recipe), image_size=None))
    assert built.fingerprint == source.fingerprint
    assert (built.spec.size, built.spec.mean, built.spec.interpolation) == (64, (0.1, 0.1, 0.1), "bilinear")
    named = settings(name="hf-hub:facebook/small", kwargs=None, weights=str(CATALOG / "timm.yaml"))
    assert build_backbone(named).fingerprint == source.fingerprint
    assert build_backbone(named).settings.name == "resnet10t"
    recipe.write_text(f"weights: hub\nrepository: facebook/small\nsha256: {'a' * 64}\n")
    with pytest.raises(WeightsError, match="of facebook/small has sha256 .*, the recipe says aaaa"):
        build_backbone(settings(weights=str(recipe)))
    with pytest.raises(
        ConfigError, match="hf-hub:facebook/small brings its own weights, .*random.yaml are others"
    ):
        build_backbone(settings(name="hf-hub:facebook/small"))


def test_parts_of_a_model_of_the_hub(offline, tmp_path):
    listing = {"weight_map": {"conv1.0.weight": "model-1-of-1.safetensors"}}
    folder = hub_folder(tmp_path, config=ENCODER, **{"model.safetensors.index": listing})
    source = build_backbone(settings(seed=3))
    (tmp_path / "hub" / "blobs").mkdir()
    save_file(flat(source.encoder), tmp_path / "hub" / "blobs" / "5eed")
    (folder / "model-1-of-1.safetensors").symlink_to(tmp_path / "hub" / "blobs" / "5eed")
    recipe = tmp_path / "small.yaml"
    recipe.write_text("weights: hub\nrepository: facebook/small\n")
    assert build_backbone(settings(weights=str(recipe))).fingerprint == source.fingerprint


def test_a_model_that_the_hub_does_not_give_says_how_to_bring_it(offline, tmp_path):
    recipe = tmp_path / "small.yaml"
    recipe.write_text("weights: hub\nrepository: facebook/small\n")
    with pytest.raises(WeightsError) as caught:
        build_backbone(settings(weights=str(recipe)))
    text = str(caught.value)
    assert "could not get facebook/small from the Hugging Face hub: nobody is asked" in text
    assert (
        "run `hf download facebook/small --local-dir FOLDER`, copy FOLDER here and set backbone.weights"
        in text
    )
