"""What the parts share: sizes, settings, random weights, images that are made on the spot."""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import Backbone, build_backbone
from drtune.base.settings import Params
from drtune.params import SETTINGS, parse, with_values

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "params.yaml"
RANDOM = {
    "backbone.weights": str(ROOT / "catalog/random.yaml"),
    "backbone.mean": [0.5, 0.5, 0.5],
    "backbone.std": [0.5, 0.5, 0.5],
}
COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
TOY = {"channels": [8, 8, 16, 16], "stem_width": 8}
"""Arguments of a resnet10t that runs anywhere."""


@dataclass(frozen=True)
class Scene:
    """How large everything is, and where it runs.

    Attributes:
        device: `cuda` or `cpu`.
        networks: (timm name, arguments, image size) of the backbones whose steps are timed.
        batch, bank: B and K; the paper's are 64 and 2048.
        classes: numbers of classes.
        rounds: most rounds of a timing.
        images: images of an extraction and of an epoch.
        side: width and height of the JPEG files, px.
        methods: those that are checked.
        until: time of `time.monotonic` at which a part should end.
        save: keeps what a part has found so far.
    """

    device: torch.device
    networks: list[tuple[str, dict[str, Any] | None, int]]
    batch: int
    bank: int
    classes: list[int]
    rounds: int
    images: int
    side: tuple[int, int]
    methods: tuple[str, ...]
    until: float
    save: Callable[[Any], None]

    def settings(self, **change: Any) -> Params:
        """The shipped settings on this device, with random weights; `a__b` stands for `a.b`."""
        named = {name.replace("__", "."): value for name, value in change.items()}
        where = {"runtime.device": self.device.type, "runtime.threads": torch.get_num_threads()}
        raw = yaml.safe_load(SHIPPED.read_text())
        return parse(with_values(raw, RANDOM | where | named), SHIPPED.name)

    def backbone(self, name: str, kwargs: dict[str, Any] | None, size: int) -> Backbone:
        """A timm encoder with random weights."""
        given = {"backbone__name": name, "backbone__kwargs": kwargs, "backbone__image_size": size}
        return build_backbone(self.settings(**given, backbone__interpolation="bilinear")[BackboneSettings])


def tiny(device: torch.device, until: float, save: Callable[[Any], None]) -> Scene:
    """Sizes for a test on a CPU, and one thread: more of them wait for each other where others work, too."""
    torch.set_num_threads(1)
    networks = [("resnet10t", TOY, 32)]
    return Scene(device, networks, 8, 32, [3], 2, 24, (48, 36), ("dr_tune", "core_tuning"), until, save)


def full(device: torch.device, until: float, save: Callable[[Any], None]) -> Scene:
    """The sizes that are reported."""
    networks = [("resnet50", None, 224), ("vit_base_patch16_224", None, 224)]
    methods = tuple(sorted(SETTINGS, key=lambda name: name != "dr_tune"))  # ours first
    return Scene(device, networks, 64, 2048, [200, 10], 5, 2048, (500, 375), methods, until, save)


def jpeg(colour: tuple[int, int, int], side: tuple[int, int], seed: int) -> bytes:
    """A noisy picture of one colour, as a JPEG file."""
    random = np.random.default_rng(seed)
    small = random.integers(-40, 40, (side[1] // 4, side[0] // 4, 3)) + np.array(colour)
    picture = Image.fromarray(small.clip(0, 255).astype(np.uint8)).resize(side, Image.Resampling.BICUBIC)
    with io.BytesIO() as stream:
        picture.save(stream, "JPEG", quality=90)
        return stream.getvalue()


def write_images(folder: Path, count: int, side: tuple[int, int]) -> Path:
    """`folder`/CLASS/NUMBER.jpg, `count` in all, in three classes; no two are equal."""
    for number in range(count):
        name = list(COLOURS)[number % len(COLOURS)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number}.jpg").write_bytes(jpeg(COLOURS[name], side, number))
    return folder


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes when the part ends."""
    return tempfile.TemporaryDirectory(prefix="drtune-gpu-")
