import json

import numpy as np
import pytest
import torch
from torch import nn

from drtune.backbones.classifier import Classifier
from drtune.base.runtime import RuntimeSettings
from drtune.base.seeding import derive
from drtune.data.loaders import seeded
from drtune.data.packed import PackedSplit, write_split
from drtune.data.transforms import InputSpec, eval_transform
from drtune.evaluation import metrics
from drtune.evaluation.corruptions import corrupted_transform
from drtune.evaluation.robustness import first_image, measure_corrupted, set_name, summarize
from drtune.evaluation.settings import EvaluateSettings
from drtune.sources.samples import png_bytes

SPEC = InputSpec(8, (0.5, 0.4, 0.3), (0.5, 0.25, 1.0), "bilinear", 1.0)
N = 10
RUNTIME = RuntimeSettings(device="cpu", workers=0, threads=1, compile=False)
SETTINGS = EvaluateSettings(
    batch_size=4,
    bootstrap=100,
    calibration_bins=10,
    worst=4,
    corruptions=["gaussian_noise", "contrast"],
    severities=[5, 1],
    seed=3,
)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "test.arrow"
    pixels = np.random.default_rng(0).integers(0, 256, (N, 10, 8, 3), dtype=np.uint8)
    write_split(path, [(f"id{row}", png_bytes(pixels[row]), row % 3) for row in range(N)])
    return PackedSplit(path)


def model():
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Tanh()), 6, 3).train()


def settings(**change):
    return SETTINGS.model_copy(update=change)


def test_each_cell_is_the_accuracy_on_images_corrupted_one_by_one(split):
    network = model()
    scores = measure_corrupted(network, split, SPEC, SETTINGS, RUNTIME)
    assert network.training
    cells = []
    for name in ("gaussian_noise", "contrast"):
        for level in (5, 1):
            transform, right = corrupted_transform(SPEC, name, level), 0
            for row in range(N):
                with seeded(derive(derive(3, "corruption", name, level), "augment", 0, f"id{row}")):
                    image = transform(split.image(row))
                with torch.no_grad():
                    right += int(network(image[None]).logits.argmax() == row % 3)
            cells.append(right / N)
            assert scores[f"corrupted/{name}/{level}"]["accuracy"] == pytest.approx(right / N)
        assert scores[f"corrupted/{name}"]["accuracy"] == pytest.approx(sum(cells[-2:]) / 2)
    assert scores["corrupted"]["accuracy"] == pytest.approx(sum(cells) / 4)
    assert len(set(cells)) > 1


def test_sets_are_named_from_the_mean_down_to_the_cell(split):
    scores = measure_corrupted(model(), split, SPEC, SETTINGS, RUNTIME)
    assert list(scores) == [
        "corrupted",
        "corrupted/gaussian_noise",
        "corrupted/gaussian_noise/5",
        "corrupted/gaussian_noise/1",
        "corrupted/contrast",
        "corrupted/contrast/5",
        "corrupted/contrast/1",
    ]
    assert list(scores)[::2][:2] == [set_name(), set_name("gaussian_noise", 5)]
    for values in scores.values():
        assert list(values) == ["n", "accuracy", "accuracy_low", "accuracy_high"]
        assert values["n"] == N
        assert 0 <= values["accuracy_low"] <= values["accuracy"] <= values["accuracy_high"] <= 1
    assert json.loads(json.dumps(scores)) == scores


def test_batches_do_not_matter_and_the_seed_does(split):
    network = model()
    scores = measure_corrupted(network, split, SPEC, SETTINGS, RUNTIME)
    assert measure_corrupted(network, split, SPEC, settings(batch_size=10), RUNTIME) == scores
    noise = first_image(split, SPEC, SETTINGS)[1]["gaussian_noise", 1]
    assert (first_image(split, SPEC, settings(seed=4))[1]["gaussian_noise", 1] != noise).any()


def test_progress_counts_every_image_once_a_cell(split):
    seen = []
    measure_corrupted(model(), split, SPEC, SETTINGS, RUNTIME, lambda *counts: seen.append(counts))
    done = [0, *(N * cell + images for cell in range(4) for images in (4, 8, 10))]
    assert seen == [(images, 4 * N) for images in done]


def test_without_corruptions_nothing_is_done(split):
    seen = []
    found = measure_corrupted(None, split, SPEC, settings(corruptions=[]), RUNTIME, lambda *c: seen.append(c))
    assert (found, seen) == ({}, [])


@pytest.mark.parametrize("chunk", [4_000_000, 60 * 40])
def test_intervals_are_those_of_the_clean_accuracy(chunk, monkeypatch):
    monkeypatch.setattr("drtune.evaluation.robustness.CHUNK", chunk)
    monkeypatch.setattr(metrics, "CHUNK", chunk)
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (60,), generator=draws)
    logits = torch.randn(60, 3, generator=draws)
    right = (logits.argmax(1) == labels).double()
    low, high = metrics.bootstrap_intervals(logits, labels, bins=5, resamples=150, seed=7)["accuracy"]
    found = summarize({("fog", 2): right}, 150, 7)
    expected = {"n": 60, "accuracy": right.mean().item(), "accuracy_low": low, "accuracy_high": high}
    assert found["corrupted/fog/2"] == pytest.approx(expected, abs=1e-6)
    assert found["corrupted"] == found["corrupted/fog"] == found["corrupted/fog/2"]


def test_the_interval_of_a_mean_draws_whole_images(monkeypatch):
    # every image is recognised under exactly one of two corruptions: no resample changes the mean
    hits = torch.tensor([1.0, 0.0] * 20, dtype=torch.float64)
    monkeypatch.setattr("drtune.evaluation.robustness.CHUNK", 40 * 7)  # several chunks, the last one short
    found = summarize({("fog", 1): hits, ("jpeg", 1): 1 - hits}, 100, 0)
    assert found["corrupted"] == {"n": 40, "accuracy": 0.5, "accuracy_low": 0.5, "accuracy_high": 0.5}
    assert found["corrupted/fog/1"]["accuracy_low"] < 0.5 < found["corrupted/fog/1"]["accuracy_high"]


def test_the_first_image_is_shown_as_the_model_is_given_it(split):
    clean, corrupted = first_image(split, SPEC, SETTINGS)
    assert list(corrupted) == [
        ("gaussian_noise", 5), ("gaussian_noise", 1), ("contrast", 5), ("contrast", 1),
    ]  # fmt: skip
    mean, std = (torch.tensor(values)[:, None, None] for values in (SPEC.mean, SPEC.std))
    given = 255 * (eval_transform(SPEC)(split.image(0)) * std + mean)
    assert clean.dtype == np.uint8
    np.testing.assert_allclose(clean.transpose(2, 0, 1), given.numpy(), atol=1e-3)
    assert all(image.shape == (8, 8, 3) and (image != clean).any() for image in corrupted.values())
    assert corrupted["contrast", 5].std() < corrupted["contrast", 1].std() < clean.std()
