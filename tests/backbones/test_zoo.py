import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small import flat, settings

from drtune.backbones.zoo import build_backbone
from drtune.base.errors import ConfigError, WeightsError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "weights"


def test_convolutions_run_in_channels_last_layout_and_mean_the_same():
    built = build_backbone(settings())
    assert built.encoder.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    plain = build_backbone(settings()).encoder.to(memory_format=torch.contiguous_format)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(built.encoder(images), plain(images), rtol=1e-4, atol=1e-5)


def test_random_weights_are_a_function_of_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = build_backbone(settings()), build_backbone(settings()), build_backbone(settings(seed=1))
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert torch.equal(torch.get_rng_state(), before)
    assert a.feature_dim == 16
    assert a.encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 16)


def test_input_spec_comes_from_timm_unless_given():
    known = build_backbone(settings(image_size=None)).spec
    assert (known.size, known.interpolation, known.crop_fraction) == (176, "bicubic", 0.875)
    assert known.mean == (0.485, 0.456, 0.406)
    given = build_backbone(
        settings(mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2], interpolation="nearest", crop_fraction=1.0)
    ).spec
    assert (given.size, given.mean, given.std) == (32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert (given.interpolation, given.crop_fraction) == ("nearest", 1.0)


def test_a_vision_transformer_takes_another_image_size():
    small = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}
    built = build_backbone(settings(name="vit_tiny_patch16_224", kwargs=small, image_size=48))
    assert built.feature_dim == 24
    assert built.encoder(torch.zeros(1, 3, 48, 48)).shape == (1, 24)


def test_weights_from_a_path(tmp_path):
    source = build_backbone(settings(seed=3))
    save_file(flat(source.encoder), tmp_path / "w.safetensors")
    loaded = build_backbone(settings(weights=str(tmp_path / "w.safetensors")))
    assert loaded.fingerprint == source.fingerprint


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real ImageNet weights in ../shared/weights")
def test_real_imagenet_weights_load_strictly():
    kwargs = {"pad_type": "same", "bn_eps": 0.001}
    path = str(SHARED / "mobilenetv2_035_in1k_features.safetensors")
    built = build_backbone(settings(name="mobilenetv2_035", kwargs=kwargs, weights=path, image_size=96))
    assert built.feature_dim == 1280
    with pytest.raises(WeightsError, match="does not fit backbone.name"):
        build_backbone(settings(name="mobilenetv2_050", kwargs=kwargs, weights=path, image_size=96))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"name": "resnet10tt"}, ConfigError, r"has no model 'resnet10tt'; did you mean resnet10t"),
        ({"kwargs": {"chanels": [8]}}, ConfigError, r"backbone.kwargs: resnet10t does not take .*chanels"),
        ({"weights": "nowhere.pth"}, WeightsError, "no such file: nowhere.pth"),
        ({"name": "vit_tiny_patch16_224", "kwargs": {"img_size": 64}, "image_size": 48}, ConfigError,
         "backbone.image_size: vit_tiny_patch16_224 cannot take images of 48 px"),
    ],
)  # fmt: skip
def test_faults_name_the_setting_and_the_remedy(change, error, text):
    with pytest.raises(error, match=text):
        build_backbone(settings(**change))


RECORD = {
    "name": "resnet10t", "kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8}, "image_size": 40,
    "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "interpolation": "nearest",
}  # fmt: skip


def test_null_takes_what_the_weights_file_records_of_itself(tmp_path):
    path = tmp_path / "w.safetensors"
    source = build_backbone(settings(seed=3))
    save_file(flat(source.encoder), path, metadata={"backbone": json.dumps(RECORD)})
    built = build_backbone(settings(weights=str(path), kwargs=None, image_size=None))
    assert built.fingerprint == source.fingerprint
    assert built.settings.kwargs == RECORD["kwargs"]
    assert (built.spec.size, built.spec.mean, built.spec.interpolation) == (40, (0.1, 0.2, 0.3), "nearest")
    given = build_backbone(settings(weights=str(path), kwargs=None, image_size=32, mean=[0.5, 0.5, 0.5]))
    assert (given.spec.size, given.spec.mean, given.spec.std) == (32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_record_of_another_architecture_is_not_used(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(flat(build_backbone(settings()).encoder), path, metadata={"backbone": json.dumps(RECORD)})
    with pytest.raises(WeightsError, match="does not fit backbone.name"):
        build_backbone(settings(name="resnet18", weights=str(path), kwargs=None, image_size=None))


def test_without_a_record_null_arguments_are_none():
    assert build_backbone(settings(kwargs=None, image_size=None)).feature_dim == 512
