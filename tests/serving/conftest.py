"""A finished model of a tiny network, made once."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from drtune.backbones.model_file import save_model
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone

ROOT = Path(__file__).resolve().parents[2]
COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A folder with model.safetensors and model.json of three classes."""
    settings = BackboneSettings(
        name="resnet10t",
        weights=str(ROOT / "catalog/random.yaml"),
        kwargs={"channels": [8, 8, 16, 16], "stem_width": 8},
        image_size=32,
        mean=None,
        std=None,
        interpolation=None,
        crop_fraction=1.0,
        seed=0,
    )
    backbone = build_backbone(settings)
    torch.manual_seed(0)
    classifier = backbone.classifier(3)
    torch.nn.init.normal_(classifier.head.weight)
    folder = tmp_path_factory.mktemp("finished") / "models"
    folder.mkdir()
    save_model(folder, classifier, settings, backbone.spec, ["red", "green", "blue"], {"method": "finetune"})
    return folder


@pytest.fixture(scope="session")
def pictures():
    """PNG, JPEG and palette files of other sizes than the model's input, as bytes."""
    files = []
    for colour, size, mode, form in zip(
        COLOURS, [(40, 30), (24, 24), (64, 90)], ["RGB", "RGB", "P"], ["PNG", "JPEG", "PNG"], strict=True
    ):
        stream = io.BytesIO()
        Image.new("RGB", size, colour).convert(mode).save(stream, form)
        files.append(stream.getvalue())
    return files
