import pytest
import timm
import torch
from safetensors.torch import save_file

from drtune.backbones.fitting import left_out, load_encoder
from drtune.backbones.weights import fingerprint, read_checkpoint
from drtune.base.errors import WeightsError

KWARGS = {"channels": (8, 8, 16, 16), "stem_width": 8}


def resnet(seed=0, **kwargs):
    torch.manual_seed(seed)
    return timm.create_model("resnet10t", **{"num_classes": 0, **KWARGS, **kwargs})


def same(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("prefix", "extra"),
    [
        ("", {"fc.weight": (5, 16), "fc.bias": (5,)}),
        ("module.encoder_q.", {"module.encoder_q.fc.weight": (8, 16), "module.encoder_k.conv1.weight": (1,),
                               "module.queue": (2, 2), "module.queue_ptr": (1,)}),
        ("module.encoder.", {"module.encoder.fc.0.weight": (8, 16), "module.predictor.0.weight": (2, 2)}),
        ("module.encoder.", {"module.head.0.weight": (2, 2)}),
        ("module.", {"module.projection_head.0.weight": (2, 2), "module.prototypes.weight": (3, 2)}),
        ("encoder.", {"head.weight": (5, 16), "head.bias": (5,)}),
    ],
    ids=["plain", "moco", "simsiam", "infomin", "swav", "own"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_published_wrappings_load_every_key(tmp_path, prefix, extra, key):
    source, target = resnet(1), resnet(2)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    state |= {name: torch.zeros(shape) for name, shape in extra.items()}
    path = tmp_path / "w.pth.tar"
    torch.save({key: state, "epoch": 3} if key else state, path)
    assert not same(source, target)
    load_encoder(target, read_checkpoint(path), "fc", "w")
    assert same(source, target)


def test_safetensors_and_missing_counters_are_accepted(tmp_path):
    source, target = resnet(1), resnet(2)
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "w.safetensors")
    load_encoder(target, read_checkpoint(tmp_path / "w.safetensors"), "fc", "w")
    assert torch.equal(source.layer4[0].conv1.weight, target.layer4[0].conv1.weight)


def test_another_architecture_is_refused_whole_with_every_key():
    target = resnet(2)
    before = fingerprint(target)
    state = dict(resnet(1, channels=(8, 8, 16, 32)).state_dict())
    state.pop("bn1.running_mean")
    state["conv9.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        load_encoder(target, state, "fc", "other.pth")
    text = str(caught.value)
    assert "other.pth does not fit backbone.name (read as timm)" in text
    assert "missing: bn1.running_mean" in text
    assert "unexpected: conv9.weight" in text
    assert "layer4.0.conv1.weight (32, 16, 3, 3) instead of (16, 16, 3, 3)" in text
    assert "… (" in text
    assert "remedy: name the architecture" in text
    assert fingerprint(target) == before


def test_what_stands_beside_the_encoder_is_left_out_and_said_what_stands_in_it_is_not():
    state = {f"module.encoder_q.{k}": v for k, v in resnet(1).state_dict().items()}
    beside = {**state, "stray": torch.zeros(1)}
    assert left_out(load_encoder(resnet(2), beside, "fc", "w"), beside) == ["stray"]
    with pytest.raises(
        WeightsError, match=r"read as MoCo, PCL, HCSC, DenseCL at module.encoder_q\):\n  unexpected: stray"
    ):
        load_encoder(resnet(2), {**state, "module.encoder_q.stray": torch.zeros(1)}, "fc", "w")


def test_position_embedding_is_resampled_to_another_image_size():
    small = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8, "num_classes": 0}
    source = timm.create_model("vit_tiny_patch16_224", img_size=32, **small)
    target = timm.create_model("vit_tiny_patch16_224", img_size=64, **small)
    load_encoder(target, source.state_dict(), "head", "w")
    assert target.pos_embed.shape == (1, 65, 24)
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    grid = source.pos_embed[:, 1:].reshape(4, 4, 24)
    resampled = target.pos_embed[:, 1:].reshape(8, 8, 24)
    assert torch.allclose(grid.mean((0, 1)), resampled.mean((0, 1)), atol=0.02)


@pytest.mark.parametrize(
    "shape", [(1, 0, 24), (1, 1, 24), (1, 12, 24), (3, 17, 24), (1, 17, 7), (1, 257**2 + 1, 24), (17, 24)]
)
def test_positions_of_no_square_grid_are_another_shape(shape):
    target = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32, embed_dim=24, depth=1, num_heads=2
    )
    state = {**target.state_dict(), "pos_embed": torch.zeros(shape)}
    with pytest.raises(WeightsError, match="of another shape: pos_embed"):
        load_encoder(target, state, "head", "w.pth")


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.int64])
def test_whole_numbers_are_no_weights(kind):
    target = timm.create_model("resnet10t", num_classes=0, channels=(8, 8, 8, 8), stem_width=8)
    state = {
        name: value.to(kind) if name == "bn1.weight" else value for name, value in target.state_dict().items()
    }
    with pytest.raises(WeightsError, match=f"no floating-point numbers: bn1.weight {kind}"):
        load_encoder(target, state, "fc", "w.pth")
