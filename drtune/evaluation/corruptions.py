"""Corruptions of ImageNet-C, made on the fly: five kinds, five severities each.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019; hendrycks/robustness ImageNet-C/imagenet_c/imagenet_c/corruptions.py@20caed9, whose
function of the same name each one here follows.

Their strengths are meant for crops of 224 px. What is measured in pixels there, the width of the blur and the
grain of the fog, is a share of the image here, so that a severity means the same on 32 px and on 224 px.
Noise and contrast act on single pixels, JPEG on its 8 px blocks: these stay as they are at every size, which
makes noise and JPEG worse for a small image than for the same image in more pixels.

Where this differs from ImageNet-C's published files: values are rounded, not cut, to 8 bits, and the result
is not stored as a JPEG of quality 85. Letters: H, W height and width in pixels.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import get_args

import numpy as np
import numpy.typing as npt
import scipy.fft
import torch
from PIL import Image
from torch.utils.data import DataLoader

from drtune.base.errors import ConfigError, DataError
from drtune.base.faults import unknown_value
from drtune.base.seeding import derive
from drtune.data.batch import Batch
from drtune.data.images import open_image
from drtune.data.loaders import view_loader
from drtune.data.packed import PackedSplit
from drtune.data.transforms import InputSpec, Transform, central_crop, transform_of
from drtune.evaluation.settings import Corruption, Severity

Pixels = npt.NDArray[np.uint8]
Shares = npt.NDArray[np.float64]
Draws = np.random.Generator

REFERENCE = 224  # px, the side of ImageNet-C's images
PLASMA = 256  # px, the side of the height map that its fog is cut from

NOISE_STD = (0.08, 0.12, 0.18, 0.26, 0.38)  # as a share of the range of values
BLUR_SIGMA = (1.0, 2.0, 3.0, 4.0, 6.0)  # px of a side of 224
CONTRAST_KEPT = (0.4, 0.3, 0.2, 0.1, 0.05)  # share of each pixel's distance to the mean colour
JPEG_QUALITY = (25, 18, 15, 10, 7)
FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))  # (thickness, decay of `plasma`)


def gaussian_noise(image: Shares, severity: int, draws: Draws) -> Shares:
    """Add independent normal noise to every channel of every pixel: [H, W, 3] in 0..1."""
    return image + NOISE_STD[severity - 1] * draws.standard_normal(image.shape)


def gaussian_blur(image: Shares, severity: int, draws: Draws) -> Shares:
    """Convolve with a Gaussian whose sigma is the given share of the shorter side: [H, W, 3] in 0..1.

    The last pixel is repeated beyond the border. Done on the cosine transform, where a wave of k half periods
    across n pixels is multiplied by exp(-(sigma pi k / n)^2 / 2): waves are damped alike at every image size,
    also where sigma is below a pixel, too narrow for a sampled kernel.
    """
    height, width = image.shape[:2]
    sigma = BLUR_SIGMA[severity - 1] * min(height, width) / REFERENCE
    border = math.ceil(4 * sigma)
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), "edge")
    rows, columns = (np.exp(-((sigma * np.pi * np.arange(n) / n) ** 2) / 2) for n in padded.shape[:2])
    waves = scipy.fft.dctn(padded, axes=(0, 1), norm="ortho") * rows[:, None, None] * columns[:, None]
    blurred: Shares = scipy.fft.idctn(waves, axes=(0, 1), norm="ortho")
    return blurred[border : border + height, border : border + width]


def contrast(image: Shares, severity: int, draws: Draws) -> Shares:
    """Pull every pixel towards the mean colour of the image: [H, W, 3] in 0..1."""
    mean = image.mean((0, 1))
    pulled: Shares = mean + CONTRAST_KEPT[severity - 1] * (image - mean)
    return pulled


def jpeg(image: Shares, severity: int, draws: Draws) -> Shares:
    """Encode and decode as JPEG of low quality: [H, W, 3] in 0..1."""
    stream = BytesIO()
    Image.fromarray(to_bytes(image)).save(stream, "JPEG", quality=JPEG_QUALITY[severity - 1])
    with open_image(stream) as decoded:
        return np.asarray(decoded) / 255


def fog(image: Shares, severity: int, draws: Draws) -> Shares:
    """Add a white plasma and scale the sum back to the range of the image: [H, W, 3] in 0..1.

    The plasma is ImageNet-C's for 224 px, resized to the longer side and cut.
    """
    height, width = image.shape[:2]
    thickness, decay = FOG[severity - 1]
    field = Image.fromarray(plasma(decay, draws)[:REFERENCE, :REFERENCE].astype(np.float32))
    side = max(height, width)
    field = field.resize((side, side), Image.Resampling.BILINEAR)
    brightest = image.max()
    hazy = image + thickness * np.asarray(field, np.float64)[:height, :width, None]
    faded: Shares = hazy * (brightest / (brightest + thickness))
    return faded


def plasma(decay: float, draws: Draws) -> Shares:
    """A height map on a torus by the diamond-square algorithm: [256, 256], from 0 to 1.

    Each level halves the grid: centres of squares, then middles of edges, become the mean of their four
    neighbours plus a uniform draw, whose range falls by decay^2 from level to level.
    """
    heights, swing = np.zeros((1, 1)), 1.0
    while len(heights) < PLASMA:
        n = len(heights)
        below, right = np.roll(heights, -1, 0), np.roll(heights, -1, 1)
        wobble = swing * draws.uniform(-1, 1, (3, n, n))
        centres = (heights + below + right + np.roll(below, -1, 1)) / 4 + wobble[0]
        finer = np.empty((2 * n, 2 * n))
        finer[::2, ::2], finer[1::2, 1::2] = heights, centres
        finer[::2, 1::2] = (heights + right + centres + np.roll(centres, 1, 0)) / 4 + wobble[1]
        finer[1::2, ::2] = (heights + below + centres + np.roll(centres, 1, 1)) / 4 + wobble[2]
        heights, swing = finer, swing / decay**2
    lowest, highest = heights.min(), heights.max()
    scaled: Shares = (heights - lowest) / (highest - lowest)
    return scaled


CORRUPTIONS: Mapping[Corruption, Callable[[Shares, int, Draws], Shares]] = {
    "gaussian_noise": gaussian_noise,
    "gaussian_blur": gaussian_blur,
    "contrast": contrast,
    "jpeg": jpeg,
    "fog": fog,
}


def to_bytes(image: Shares) -> Pixels:
    """Clip to 0..1 and round to 8 bits."""
    rounded: Pixels = np.rint(255 * image.clip(0, 1)).astype(np.uint8)
    return rounded


def corrupt(pixels: Pixels, corruption: Corruption, severity: Severity, draws: Draws) -> Pixels:
    """Corrupt one image.

    Args:
        pixels: [H, W, 3] uint8 RGB.
        corruption: a key of `CORRUPTIONS`.
        severity: 1 (weak) to 5 (strong).
        draws: where random ones draw from; the others leave it alone.

    Returns:
        [H, W, 3] uint8, a new array.

    Raises:
        ConfigError: an unknown corruption or severity.
        DataError: not an 8-bit RGB image.
    """
    check(corruption, severity)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype != np.uint8:
        what = f"{list(pixels.shape)} of {pixels.dtype}"
        raise DataError(
            f"cannot corrupt {what}: expected an image [H, W, 3] of uint8; convert it to 8-bit RGB"
        )
    return to_bytes(CORRUPTIONS[corruption](pixels / 255, severity, draws))


def check(corruption: str, severity: int) -> None:
    """Refuse a corruption or a severity that does not exist."""
    if corruption not in CORRUPTIONS:
        raise ConfigError(f"corruption {unknown_value(corruption, list(CORRUPTIONS))}")
    if severity not in get_args(Severity):
        raise ConfigError(f"severity {severity!r} is unknown; known: 1 (weak) to 5 (strong)")


def corrupted_transform(spec: InputSpec, corruption: Corruption, severity: Severity) -> Transform:
    """What `transforms.eval_transform` does, with the corruption between central crop and normalisation.

    Draws come from PyTorch's global CPU generator (see `loaders.seeded`).

    Raises:
        ConfigError: an unknown corruption or severity.
    """
    check(corruption, severity)
    step = partial(corrupt_by_torch, corruption=corruption, severity=severity)
    return transform_of([*central_crop(spec), step], spec)


def corrupt_by_torch(image: Image.Image, corruption: Corruption, severity: Severity) -> Image.Image:
    """Corrupt a Pillow RGB image with draws that follow from PyTorch's global CPU generator."""
    draws = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
    return Image.fromarray(corrupt(np.asarray(image), corruption, severity, draws))


def corrupted_loader(
    split: PackedSplit,
    spec: InputSpec,
    corruption: Corruption,
    severity: Severity,
    *,
    batch_size: int,
    workers: int,
    seed: int,
) -> DataLoader[Batch]:
    """All rows in order, corrupted; each is a function of (seed, corruption, severity, sample id) alone.

    Raises:
        ConfigError: an unknown corruption or severity.
    """
    return view_loader(
        split,
        corrupted_transform(spec, corruption, severity),
        batch_size=batch_size,
        workers=workers,
        view=0,
        seed=derive(seed, "corruption", corruption, severity),
    )
