"""Transforms: size, normalisation, which steps are there, and what a draw depends on."""

import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drtune.data.settings import AugmentSettings
from drtune.data.transforms import InputSpec, describe, eval_transform, shortened, train_transform

SPEC = InputSpec(16, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0), "bilinear", 0.5)
PLAIN = AugmentSettings(
    crop_area=[1.0, 1.0],
    crop_ratio=[1.0, 1.0],
    horizontal_flip=0.0,
    rotation=0.0,
    shift=0.0,
    color_jitter=0.0,
    blur=0.0,
)


def picture(width=24, height=20):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def augment(**changes):
    return PLAIN.model_copy(update=changes)


def test_eval_is_resize_centre_crop_normalise():
    # crop_fraction 0.5: the shorter side becomes 32, then the central 16 are cut out
    image = Image.new("RGB", (64, 32))
    image.paste((255, 128, 0), (24, 8, 40, 24))
    tensor = eval_transform(SPEC)(image)
    assert tensor.shape == (3, 16, 16)
    assert tensor.dtype == torch.float32
    expected = (torch.tensor([1.0, 128 / 255, 0.0]) - torch.tensor(SPEC.mean)) / torch.tensor(SPEC.std)
    assert torch.allclose(tensor, expected[:, None, None].expand(3, 16, 16), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (16, 300), (33, 17)])
def test_every_image_gets_the_same_size(size):
    spec = InputSpec(16, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.9)
    assert eval_transform(spec)(picture(*size)).shape == (3, 16, 16)
    wild = augment(crop_area=[0.1, 1.0], crop_ratio=[0.75, 1.33], rotation=20.0, shift=0.1, color_jitter=0.4)
    assert train_transform(spec, wild)(picture(*size)).shape == (3, 16, 16)


@pytest.mark.parametrize("size", [(500_000, 1), (1, 500_000), (60_000, 2), (32_738, 23)])
def test_the_ends_of_a_very_long_picture_are_cut_off_before_it_is_resized(size):
    spec = InputSpec(224, (0.0,) * 3, (1.0,) * 3, "bicubic", 0.875)
    image, middle = Image.new("RGB", size, (9, 90, 200)), tuple(max(1, side // 2) for side in size)
    image.putpixel(tuple(min(place, side - 1) for place, side in zip(middle, size, strict=True)), (255, 0, 0))
    small = shortened(image)
    assert max(small.size) == 16 * min(size)
    assert np.asarray(small)[..., 0].max() == 255, "the middle is kept"
    resource.setrlimit(resource.RLIMIT_DATA, (used() + 1_000_000_000, resource.RLIM_INFINITY))
    try:
        assert eval_transform(spec)(image).shape == (3, 224, 224)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def used() -> int:
    """Bytes of this process's data."""
    return int(re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def test_a_picture_of_common_shape_is_resized_as_it_is():
    image = picture(320, 20)
    assert shortened(image) is image
    assert shortened(picture(321, 20)).size == (320, 20)


def test_eval_draws_nothing():
    state = torch.get_rng_state()
    transform = eval_transform(SPEC)
    assert torch.equal(transform(picture()), transform(picture()))
    assert torch.equal(torch.get_rng_state(), state)


def test_train_without_augmentation_is_a_resize():
    image = picture(16, 16)
    expected = eval_transform(InputSpec(16, SPEC.mean, SPEC.std, "bilinear", 1.0))(image)
    assert torch.equal(train_transform(SPEC, PLAIN)(image), expected)


def test_flip_of_one_always_flips():
    image = picture(16, 16)
    flipped = train_transform(SPEC, augment(horizontal_flip=1.0))(image)
    assert torch.equal(flipped, train_transform(SPEC, PLAIN)(image).flip(-1))


@pytest.mark.parametrize(
    "change",
    [
        {"crop_area": [0.2, 0.9]},
        {"rotation": 30.0},
        {"shift": 0.3},
        {"color_jitter": 0.5},
        {"blur": 2.0},
        {"horizontal_flip": 0.5},
    ],
)
def test_each_setting_changes_pixels_by_the_seed_alone(change):
    transform = train_transform(SPEC, augment(**change))
    draws = []
    for seed in (0, 1, 2, 3, 4, 5, 0):
        torch.manual_seed(seed)
        draws.append(transform(picture()))
    assert torch.equal(draws[0], draws[-1])
    assert len({draw.numpy().tobytes() for draw in draws[:-1]}) > 1


def test_uncovered_corners_are_zero_for_the_network():
    spec = InputSpec(16, (0.6, 0.2, 0.4), (0.5,) * 3, "bilinear", 1.0)
    torch.manual_seed(0)
    shifted = train_transform(spec, augment(shift=0.9))(Image.new("RGB", (16, 16), (255, 255, 255)))
    empty = shifted.abs().amax(0) < 0.01
    assert 0 < empty.sum() < empty.numel()


def test_description_is_json_and_tells_settings_apart():
    text = json.dumps(describe(SPEC, PLAIN))
    assert json.loads(text) == describe(SPEC, PLAIN)
    assert describe(SPEC, None)["augment"] is None
    others = [describe(SPEC, augment(rotation=1.0)), describe(SPEC, None)]
    others.append(describe(InputSpec(17, SPEC.mean, SPEC.std, "bilinear", 0.5), PLAIN))
    assert len({json.dumps(other) for other in [*others, describe(SPEC, PLAIN)]}) == 4


def test_blur_lowers_the_contrast_of_a_fine_pattern():
    board = Image.fromarray((np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    torch.manual_seed(1)
    sharp, soft = (train_transform(SPEC, augment(blur=blur))(board) for blur in (0.0, 3.0))
    assert soft.std() < 0.5 * sharp.std()
    assert abs(float(soft.mean() - sharp.mean())) < 0.02
