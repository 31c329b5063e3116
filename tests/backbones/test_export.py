from pathlib import Path

import pytest
import torch

from drtune.backbones.export import export_encoder
from drtune.backbones.model_file import load_model
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.base.errors import WeightsError
from pipeline import paths

ENCODER = Path("encoder.safetensors")


def test_the_encoder_is_a_weights_file_for_the_next_training(finished_stage):
    made = finished_stage()
    export_encoder(paths.MODEL, ENCODER)
    next_one = build_backbone(finished_stage({"backbone.weights": str(ENCODER)}).params[BackboneSettings])
    model, spec, _ = load_model(paths.MODEL)
    images = torch.rand(4, 3, spec.size, spec.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(next_one.encoder.eval()(images), model(images).features)
        random = build_backbone(made.params[BackboneSettings]).encoder.eval()(images)
        assert not torch.equal(random, model(images).features)


def test_without_a_model_nothing_is_written(folder):
    with pytest.raises(WeightsError, match="model.safetensors: no such file; run 'dvc repro train'"):
        export_encoder(paths.MODEL, ENCODER)
    assert not ENCODER.exists()
