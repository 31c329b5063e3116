"""From a Pillow image to the tensor a backbone expects: augmented for training, plain for evaluation.

Batches travel as bytes and are normalised on their device: a quarter of the memory to collate, to hand over
between processes and to copy, and none of the arithmetic where the images are decoded.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from drtune.data.settings import AugmentSettings

MODES = {
    "nearest": v2.InterpolationMode.NEAREST,
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
}

LONGEST = 16
"""Times its shorter side that a picture may be long before its ends are cut off for evaluation."""


@dataclass(frozen=True)
class InputSpec:
    """What a backbone expects of its input.

    Attributes:
        size: S, height and width in pixels.
        mean: subtracted per channel, on a scale of 0..1.
        std: divided by per channel.
        interpolation: `nearest`, `bilinear` or `bicubic`.
        crop_fraction: share of the shorter side that the central crop of evaluation keeps, in (0, 1].
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_fraction: float


@dataclass(frozen=True)
class Transform:
    """What happens to an RGB image before a backbone sees it.

    Attributes:
        steps: RGB image -> RGB image of S x S pixels, one after the other.
        spec: what the backbone expects.
    """

    steps: v2.Compose
    spec: InputSpec

    def pixels(self, image: Image.Image) -> Tensor:
        """[3, S, S] uint8, not yet normalised."""
        return self.steps(image)  # type: ignore[no-any-return]

    def __call__(self, image: Image.Image) -> Tensor:
        """[3, S, S] float32, normalised."""
        return normalise(self.pixels(image), self.spec)


def transform_of(steps: Sequence[Any], spec: InputSpec) -> Transform:
    """A transform of these steps between Pillow images."""
    return Transform(v2.Compose([*steps, v2.ToImage(), v2.ToPureTensor()]), spec)


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """Bytes [..., 3, S, S] as float32 in 0..1, less the mean, over the standard deviation.

    It neither waits for the device nor changes the memory layout; the order of operations is torchvision's.
    """
    mean, std = moments_on(images.device, spec)
    return images.float().mul_(1 / 255).sub_(mean).div_(std)


@cache
def moments_on(device: torch.device, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, [3, 1, 1] each, copied to a device once."""
    mean, std = (torch.tensor(values).view(3, 1, 1).to(device) for values in (spec.mean, spec.std))
    return mean, std


def train_transform(spec: InputSpec, augment: AugmentSettings) -> Transform:
    """Random crop and resize, flip, rotation and shift, blur, colour jitter; then normalise.

    Steps whose setting is 0 are left out and draw nothing. Pixels that a rotation or shift brings in are
    filled with the mean colour of the normalisation, which is 0 for the network. Draws come from PyTorch's
    global CPU generator (see `loaders.seeded`).
    """
    steps: list[Any] = [
        v2.RandomResizedCrop(
            spec.size,
            scale=tuple(augment.crop_area),
            ratio=tuple(augment.crop_ratio),
            interpolation=MODES[spec.interpolation],
            antialias=True,
        )
    ]
    if augment.horizontal_flip > 0:
        steps.append(v2.RandomHorizontalFlip(augment.horizontal_flip))
    if augment.rotation > 0 or augment.shift > 0:
        steps.append(
            v2.RandomAffine(
                augment.rotation,
                translate=(augment.shift, augment.shift),
                interpolation=MODES["bilinear"],
                fill=fill_colour(spec),
            )
        )
    if augment.blur > 0:
        width = 2 * min(math.ceil(3 * augment.blur), (spec.size - 1) // 2) + 1
        steps.append(v2.GaussianBlur(width, sigma=(min(0.01, augment.blur), augment.blur)))
    if augment.color_jitter > 0:
        strength = augment.color_jitter
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    return transform_of(steps, spec)


def eval_transform(spec: InputSpec) -> Transform:
    """Resize the shorter side to size / crop_fraction, crop the centre, normalise; nothing is random."""
    return transform_of(central_crop(spec), spec)


def central_crop(spec: InputSpec) -> list[Any]:
    """The first steps of evaluation: resize the shorter side to size / crop_fraction, crop the centre."""
    return [
        shortened,
        v2.Resize(
            round(spec.size / spec.crop_fraction), interpolation=MODES[spec.interpolation], antialias=True
        ),
        v2.CenterCrop(spec.size),
    ]


def shortened(image: Image.Image) -> Image.Image:
    """Cut the ends off a picture longer than `LONGEST` times its width; the centre crop drops them anyway.

    Resized whole, one of 20,000 x 1 pixels would take gigabytes.
    """
    most = LONGEST * min(image.size)
    if max(image.size) <= most:
        return image
    width, height = (min(side, most) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def fill_colour(spec: InputSpec) -> list[int]:
    """The mean of the normalisation as an 8-bit colour."""
    return [min(max(round(255 * value), 0), 255) for value in spec.mean]


def describe(spec: InputSpec, augment: AugmentSettings | None) -> dict[str, Any]:
    """Everything that decides a transform, as plain JSON values; `augment` is None for evaluation."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(spec).items()}
    return {"input": values, "augment": None if augment is None else augment.model_dump(mode="json")}
