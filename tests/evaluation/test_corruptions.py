"""Corruptions: strengths against slow references, what a draw depends on, every size and severity."""

import pickle
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from drtune.base.errors import ConfigError, DataError
from drtune.data.loaders import eval_loader, seeded
from drtune.data.packed import PackedSplit, write_split
from drtune.data.transforms import InputSpec, eval_transform
from drtune.evaluation import corruptions
from drtune.evaluation.corruptions import CORRUPTIONS, corrupt, corrupted_loader, corrupted_transform
from drtune.evaluation.settings import Corruption
from drtune.sources.samples import png_bytes

LEVELS = (1, 2, 3, 4, 5)
RANDOM = ("gaussian_noise", "fog")
SPEC = InputSpec(16, (0.5, 0.25, 0.1), (0.5, 0.25, 1.0), "bilinear", 0.8)
N = 7


def draws(seed=0):
    return np.random.default_rng(seed)


def natural(side=64, seed=0):
    """Smooth blotches with fine detail on them, as in photographs: [side, side, 3] uint8."""
    noise = draws(seed).standard_normal((3, side, side, 3))
    layers = [
        gaussian_filter(layer, (s * side / 64, s * side / 64, 0), mode="wrap") * s
        for layer, s in zip(noise, (1, 3, 9), strict=True)
    ]
    image = sum(layers)
    return np.uint8(255 * (image - image.min()) / np.ptp(image))


def distance(one, other):
    return float(((one.astype(float) - other.astype(float)) ** 2).mean())


def test_settings_name_what_there_is():
    assert tuple(CORRUPTIONS) == get_args(Corruption)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_is_stronger_than_the_one_before(name):
    image = natural()
    seeds = range(40) if name == "fog" else range(1)  # one fog may be thinner than another
    far = [
        float(np.mean([distance(corrupt(image, name, level, draws(s)), image) for s in seeds]))
        for level in LEVELS
    ]
    assert far[0] > 1
    assert all(weak < strong for weak, strong in pairwise(far)), far


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (33, 33), (20, 31), (256, 300)])
def test_shape_and_type_stay_and_the_original_is_left_alone(name, shape):
    image = draws().integers(0, 256, (*shape, 3), dtype=np.uint8)
    image.flags.writeable = False
    for level in LEVELS:
        found = corrupt(image, name, level, draws())
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        assert not np.shares_memory(found, image)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_plain_images_stay_in_range(name, value):
    image = np.full((24, 24, 3), value, np.uint8)
    for level in LEVELS:
        found = corrupt(image, name, level, draws())
        if name not in RANDOM:  # JPEG rounds the mean of a block coarsely
            assert np.abs(found.astype(int) - value).max() <= (8 if name == "jpeg" else 0)
    if name == "fog":
        assert found.max() <= value, "fog keeps the range of the image"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_grey_stays_grey_but_for_noise(name):
    image = natural()[:, :, :1].repeat(3, 2)
    found = corrupt(image, name, 3, draws()).astype(int)
    spread = np.abs(found - found[:, :, :1]).max()
    assert spread > 50 if name == "gaussian_noise" else spread <= 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_decide_the_random_ones_alone(name):
    image = natural(32)
    one, again, other = (corrupt(image, name, 3, draws(seed)) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any() == (name in RANDOM)


@pytest.mark.parametrize(("level", "std"), [(1, 0.08), (2, 0.12), (3, 0.18), (4, 0.26), (5, 0.38)])
@pytest.mark.parametrize("side", [32, 224])
def test_noise_has_the_published_spread_at_every_size(level, std, side):
    grey = np.full((side, side, 3), 0.5)
    noise = corruptions.gaussian_noise(grey, level, draws()) - grey
    n = noise.size
    assert abs(noise.mean()) < 4 * std / n**0.5
    assert abs(noise.std() / std - 1) < 4 / (2 * n) ** 0.5
    assert abs(np.corrcoef(noise[:, :, 0].ravel(), noise[:, :, 1].ravel())[0, 1]) < 4 / side
    assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 4 / side


@pytest.mark.parametrize(("level", "kept"), [(1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1), (5, 0.05)])
def test_contrast_against_a_slow_loop(level, kept):
    image = natural(12)
    slow = np.empty_like(image)
    for channel in range(3):
        values = [int(image[y, x, channel]) / 255 for y in range(12) for x in range(12)]
        mean = sum(values) / len(values)
        for place, value in enumerate(values):
            slow[place // 12, place % 12, channel] = round(255 * ((value - mean) * kept + mean))
    found = corrupt(image, "contrast", level, draws())
    assert np.abs(found.astype(int) - slow).max() <= 1
    assert (found != slow).mean() < 0.01  # a half may round either way


@pytest.mark.parametrize(("level", "sigma"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6)])
def test_blur_at_224_px_is_the_published_one(level, sigma):
    image = natural(224) / 255
    expected = gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4)
    assert np.abs(corruptions.gaussian_blur(image, level, draws()) - expected).max() < 1e-4


@pytest.mark.parametrize("side", [56, 448])
@pytest.mark.parametrize("level", [1, 3, 5])
def test_blur_damps_a_wave_alike_at_every_size(side, level):
    def swing(pixels):
        wave = 0.5 + 0.4 * np.sin(2 * np.pi * 6 * (np.arange(pixels) + 0.5) / pixels)
        image = np.broadcast_to(wave[:, None, None], (pixels, pixels, 3))
        middle = corruptions.gaussian_blur(image, level, draws())[pixels // 4 : -pixels // 4, 0, 0]
        return middle.std()

    assert swing(side) == pytest.approx(swing(224), rel=2e-3)
    sigma = (1, 2, 3, 4, 6)[level - 1]
    damped = np.exp(-((2 * np.pi * 6 * sigma / 224) ** 2) / 2)
    assert swing(side) == pytest.approx(0.4 / 2**0.5 * damped, rel=2e-3)


@pytest.mark.parametrize("name", ["gaussian_blur", "fog"])
@pytest.mark.parametrize("level", [1, 3, 5])
def test_a_severity_means_the_same_on_a_smaller_copy(name, level):
    def smaller(image):
        return image.reshape(32, 7, 32, 7, 3).mean((1, 3)).round().astype(np.uint8)

    image = natural(224)
    image[:7, :7] = 255  # the brightest value, which scales fog, stays in the copy
    late, early = smaller(corrupt(image, name, level, draws())), corrupt(smaller(image), name, level, draws())
    changed = distance(late, smaller(image))
    assert changed > 0.5
    assert distance(late, early) < (0.0005 * changed if name == "fog" else 0.03 * changed + 0.5)


def test_jpeg_is_what_pillow_writes_at_the_published_quality(tmp_path):
    image = natural(40)
    for level, quality in zip(LEVELS, (25, 18, 15, 10, 7), strict=True):
        Image.fromarray(image).save(tmp_path / "a.jpg", quality=quality)
        assert (corrupt(image, "jpeg", level, draws()) == np.asarray(Image.open(tmp_path / "a.jpg"))).all()


def slow_plasma(decay, generator):
    """Diamond-square by loops over a growing grid of whole numbers."""
    grid, swing, step = {(0, 0): 0.0}, 1.0, 256
    while step > 1:
        half, count = step // 2, 256 // step
        wobble = swing * generator.uniform(-1, 1, (3, count, count))

        def mean(*places, grid=grid):
            return sum(grid[y % 256, x % 256] for y, x in places) / 4

        corners = [(y, x) for y in range(0, 256, step) for x in range(0, 256, step)]
        for y, x in corners:
            square = [(y, x), (y + step, x), (y, x + step), (y + step, x + step)]
            grid[y + half, x + half] = mean(*square) + wobble[0, y // step, x // step]
        for y, x in corners:
            for kind, (v, u) in ((1, (y, x + half)), (2, (y + half, x))):
                around = [(v - half, u), (v + half, u), (v, u - half), (v, u + half)]
                grid[v, u] = mean(*around) + wobble[kind, y // step, x // step]
        swing, step = swing / decay**2, half
    heights = np.array([[grid[y, x] for x in range(256)] for y in range(256)])
    return (heights - heights.min()) / np.ptp(heights)


def test_plasma_against_a_slow_loop():
    found = corruptions.plasma(1.7, draws(3))
    assert found.shape == (256, 256)
    assert (found.min(), found.max()) == (0, 1)
    np.testing.assert_allclose(found, slow_plasma(1.7, draws(3)), atol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_fog_against_its_formula_at_224_px(level):
    image = natural(224) / 300 + 0.05
    thickness, decay = [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)][level - 1]
    field = corruptions.plasma(decay, draws())[:224, :224]
    found, top = corruptions.fog(image, level, draws()), image.max()
    for y, x, channel in draws(1).integers(0, (224, 224, 3), (50, 3)):
        expected = (image[y, x, channel] + thickness * field[y, x]) * top / (top + thickness)
        assert found[y, x, channel] == pytest.approx(expected, abs=1e-6)


def test_unknown_names_and_severities_are_refused_before_any_image():
    with pytest.raises(ConfigError, match="corruption 'fogg' is unknown; did you mean fog\\? known: gauss"):
        corrupted_transform(SPEC, "fogg", 1)
    for level in (0, 6, -1):
        with pytest.raises(ConfigError, match=f"severity {level} is unknown; known: 1 .weak. to 5 .strong."):
            corrupt(natural(8), "fog", level, draws())


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)]
)
def test_other_images_are_refused(image):
    what = (
        f"cannot corrupt .{', '.join(map(str, image.shape))}. of {image.dtype}: expected an image .H, W, 3."
    )
    with pytest.raises(DataError, match=what):
        corrupt(image, "contrast", 1, draws())


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "test.arrow"
    pixels = natural(24)
    write_split(path, [(f"id{row}", png_bytes(np.roll(pixels, row, 0)), row % 3) for row in range(N)])
    return PackedSplit(path)


def images(split, name, level, *, seed=0, batch_size=3, workers=0):
    loader = corrupted_loader(split, SPEC, name, level, batch_size=batch_size, workers=workers, seed=seed)
    batches = list(loader)
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(N))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [row % 3 for row in range(N)]
    return torch.cat([batch.images for batch in batches])


def test_the_corruption_comes_after_the_crop_and_before_the_normalisation(split):
    clean = torch.cat(
        [batch.images for batch in eval_loader(split, eval_transform(SPEC), batch_size=3, workers=0)]
    )
    pixels = clean.permute(0, 2, 3, 1).numpy()
    expected = np.stack([corrupt(image, "contrast", 2, draws()) for image in pixels])
    found = images(split, "contrast", 2).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("name", RANDOM)
def test_pixels_are_a_function_of_seed_corruption_severity_and_id(split, name):
    first = images(split, name, 2)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    torch.manual_seed(99)
    assert torch.equal(images(split, name, 2), first)
    assert torch.equal(images(split, name, 2, batch_size=7), first)
    assert torch.equal(images(split, name, 2, workers=2), first)
    torch.set_rng_state(state)
    images(split, name, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert not any(torch.equal(*pair) for pair in zip(images(split, name, 2, seed=1), first, strict=True))


def noise_of(split, name, level, path, ids):
    write_split(path, [(name_, png_bytes(np.full((20, 20, 3), 128, np.uint8)), 0) for name_ in ids])
    loader = corrupted_loader(PackedSplit(path), SPEC, name, level, batch_size=9, workers=0, seed=0)
    return next(iter(loader)).images


def test_the_id_decides_not_the_row(split, tmp_path):
    one = noise_of(split, "gaussian_noise", 1, tmp_path / "one.arrow", ["a", "b", "c"])
    other = noise_of(split, "gaussian_noise", 1, tmp_path / "other.arrow", ["c", "a"])
    assert torch.equal(one[0], other[1])
    assert torch.equal(one[2], other[0])
    assert not torch.equal(one[0], one[1])


def test_severities_draw_apart(split, tmp_path):
    weak, strong = (noise_of(split, "gaussian_noise", s, tmp_path / f"{s}.arrow", ["a"]) for s in (1, 2))
    agreement = np.corrcoef(weak[0, 0].flatten(), strong[0, 0].flatten())[0, 1]
    assert abs(agreement) < 0.2


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_transforms_survive_pickling(name):
    transform, image = corrupted_transform(SPEC, name, 4), Image.fromarray(natural(24))
    copy = pickle.loads(pickle.dumps(transform))
    with seeded(3):
        one = transform(image)
    with seeded(3):
        assert torch.equal(copy(image), one)
    assert one.shape == (3, 16, 16)
    assert one.dtype == torch.float32
