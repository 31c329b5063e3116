"""A small backbone's settings and weights, for the tests here."""

from pathlib import Path

from drtune.backbones.settings import BackboneSettings

CATALOG = Path(__file__).resolve().parents[2] / "catalog"
GIVEN = {
    "image_size": None,
    "mean": None,
    "std": None,
    "interpolation": None,
    "crop_fraction": None,
    "seed": 0,
}
SMALL = {
    **GIVEN,
    "name": "resnet10t",
    "kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "weights": str(CATALOG / "random.yaml"),
    "image_size": 32,
}
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
"""Arguments of a small ViT."""


def settings(**change):
    return BackboneSettings(**{**SMALL, **change})


def flat(encoder):
    """Weights as safetensors takes them, whatever the memory layout."""
    return {name: value.contiguous() for name, value in encoder.state_dict().items()}
