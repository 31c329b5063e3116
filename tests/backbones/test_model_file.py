import json
from pathlib import Path

import pytest
import torch

from drtune.backbones.classifier import Classifier
from drtune.backbones.export import export_encoder
from drtune.backbones.model_file import load_model, save_model
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.base.errors import DRTuneError, WeightsError

CATALOG = Path(__file__).resolve().parents[2] / "catalog"
SMALL = BackboneSettings(
    name="resnet10t",
    kwargs={"channels": [8, 8, 16, 16], "stem_width": 8},
    weights=str(CATALOG / "random.yaml"),
    image_size=32,
    mean=None,
    std=None,
    interpolation=None,
    crop_fraction=None,
    seed=0,
)


def written(folder, seed=0):
    built = build_backbone(SMALL.model_copy(update={"seed": seed}))
    model = Classifier(built.encoder, built.feature_dim, 3).eval()
    folder.mkdir()
    save_model(folder, model, SMALL, built.spec, ["a", "b", "c"], {"method": "finetune"})
    return model, built


def test_round_trip_needs_no_other_file(tmp_path):
    model, built = written(tmp_path / "m")
    again, spec, card = load_model(tmp_path / "m")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images).logits, again(images).logits)
    assert spec == built.spec
    assert (card["classes"], card["method"]) == (["a", "b", "c"], "finetune")
    assert not again.training


def test_equal_models_give_equal_bytes(tmp_path):
    torch.manual_seed(1)
    first, _ = written(tmp_path / "a")
    second, _ = written(tmp_path / "b")
    second.load_state_dict(first.state_dict())
    built = build_backbone(SMALL)
    save_model(tmp_path / "b", second, SMALL, built.spec, ["a", "b", "c"], {"method": "finetune"})
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_exported_encoder_loads_as_backbone_weights(tmp_path):
    model, _ = written(tmp_path / "m", seed=4)
    export_encoder(tmp_path / "m", tmp_path / "encoder.safetensors")
    bare = {"weights": str(tmp_path / "encoder.safetensors"), "kwargs": None, "image_size": None}
    loaded = build_backbone(SMALL.model_copy(update=bare))
    assert loaded.spec.size == 32
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.encoder.eval()(images), model(images).features)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"no such file; run 'dvc repro train' to make the model"):
        load_model(tmp_path)
    written(tmp_path / "m")
    card = tmp_path / "m" / "model.json"
    card.write_text(card.read_text().replace('"feature_dim": 16', '"feature_dim": 17'))
    with pytest.raises(WeightsError, match="does not fit"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": {"crop_fraction": 1e-300}}, "input.crop_fraction  expected a number >= 0.1 and <= 1"),
        (
            {"input": {"interpolation": "x"}},
            "input.interpolation  expected 'nearest'",
        ),
        ({"input": {"std": [0, 0, 0]}}, "input.std.0  expected a list of 3 numbers, got 0"),
        ({"input": {"mean": [float("nan")] * 3}}, "input.mean.0  Input should be a finite number"),
        ({"reading": {"colour": "blue"}}, "reading.colour +expected 'rgb' or 'grey', got 'blue'"),
        ({"classes": [None]}, "classes.0  expected a list of 1 texts"),
        ({"classes": []}, "classes  expected a list of 1 texts"),
        ({"classes": ["a", "a", "b"]}, "classes  names a twice"),
        ({"classes": ["\x1b[2J", "a", "b"]}, "classes  .* is no name of a class"),
        ({"classes": ["\ud800", "a", "b"]}, "classes  .* is no name of a class"),
        ({"feature_dim": 16.0}, "feature_dim  expected an integer"),
        ({"timm_name": "resnet10t.x"}, "does not fit .*: Invalid pretrained tag"),
        ({"timm_name": "hf-hub:me/it"}, "has no model 'hf-hub:me/it'"),
        ({"timm_kwargs": {"depth": 3}}, "does not fit .*: .*unexpected keyword argument 'depth'"),
        (
            {"timm_kwargs": {"channels": [4000] * 4}},
            "resnet10t needs .* make the network smaller",
        ),
    ],
)
def test_a_card_that_describes_no_model_is_told_in_words(change, words, tmp_path):
    written(tmp_path / "m")
    card = json.loads((tmp_path / "m/model.json").read_text())
    for key, value in change.items():
        card[key] = card[key] | value if key == "input" else value
    (tmp_path / "m/model.json").write_text(json.dumps(card))
    with pytest.raises(DRTuneError, match=words):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 100_000, '{"a": 1' + "1" * 5000 + "}"])
def test_a_card_that_is_no_section_is_told_in_words(text, tmp_path):
    written(tmp_path / "m")
    (tmp_path / "m/model.json").write_text(text)
    with pytest.raises(DRTuneError, match="all of it  expected a section|not valid JSON"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("cut", [0, 100, -100])
def test_damaged_weights_are_told_in_words(cut, tmp_path):
    written(tmp_path / "m")
    path = tmp_path / "m/model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(WeightsError, match="is not a readable safetensors file"):
        load_model(tmp_path / "m")
