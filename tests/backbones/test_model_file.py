from pathlib import Path

import pytest
import torch

from drtune.backbones.classifier import Classifier
from drtune.backbones.export import export_encoder
from drtune.backbones.model_file import load_model, save_model
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.base.errors import WeightsError

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
