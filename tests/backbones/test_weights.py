import pickle
import random
import zipfile
from contextlib import suppress

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from drtune.backbones.weights import fingerprint, load_encoder, read_checkpoint, recorded
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
    assert "other.pth does not fit backbone.name (read as timm, torchvision)" in text
    assert "missing: bn1.running_mean" in text
    assert "unexpected: conv9.weight" in text
    assert "layer4.0.conv1.weight (32, 16, 3, 3) instead of (16, 16, 3, 3)" in text
    assert "(10 in all)" not in text
    assert "… (" in text
    assert "remedy: name the architecture" in text
    assert fingerprint(target) == before


def test_keys_outside_the_wrapping_are_unexpected():
    state = {f"module.encoder_q.{k}": v for k, v in resnet(1).state_dict().items()} | {
        "stray": torch.zeros(1)
    }
    with pytest.raises(WeightsError, match=r"read as MoCo, PCL, HCSC\):\n  unexpected: stray"):
        load_encoder(resnet(2), state, "fc", "w")


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


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(WeightsError, match="holds more than tensors and could run code") as caught:
        read_checkpoint(path)
    assert "It names print" in str(caught.value)
    assert "allowlist" not in str(caught.value)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        read_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "none.pth",
            None,
            "no such file: .*; name a .safetensors or .pth file, or a recipe: catalog/timm",
        ),
        ("w.h5", b"x", r"unknown ending '.h5'; allowed: .safetensors, .pth"),
        (
            "w.safetensors",
            b"\x01\x02",
            r"not a readable safetensors file \(.*\); it is cut short or damaged: fetch it again",
        ),
        ("w.pth", b"", r"not a readable PyTorch checkpoint \(EOFError\); it is cut short or damaged"),
        ("w.pth", b"PK\x03\x04 damaged", "not a readable PyTorch checkpoint"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, text):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=text):
        read_checkpoint(path)


def test_a_checkpoint_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no named tensors; expected a state dict"):
        read_checkpoint(tmp_path / "w.pth")


def test_fingerprint_follows_values_not_files():
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    b.load_state_dict(a.state_dict())
    assert fingerprint(a) == fingerprint(b)
    with torch.no_grad():
        b.bias[1] += 1e-6
    assert fingerprint(a) != fingerprint(b)


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


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"w/{name.replace('_', '.')}", content)
    return path


def test_bytes_that_are_no_checkpoint_are_told_in_words_whatever_they_are(tmp_path):
    good = tmp_path / "good.pth"
    torch.save({"a": torch.ones(2)}, good)
    legacy = tmp_path / "legacy.pth"
    torch.save({"a": torch.ones(2)}, legacy, _use_new_zipfile_serialization=False)
    pick, made = random.Random(0), tmp_path / "made.pth"
    for source in (good, legacy):
        for _ in range(200):
            content = bytearray(source.read_bytes())
            for _ in range(4):
                content[pick.randrange(len(content))] = pick.randrange(256)
            made.write_bytes(content)
            with suppress(WeightsError):
                read_checkpoint(made)
    zipped(made, data_pkl=b"\x80\x02}q\0.", version="9" * 30)
    with pytest.raises(WeightsError, match="is not a readable PyTorch checkpoint"):
        read_checkpoint(made)
    reduce = b"\x80\x02}X\x01\0\0\0ac__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x7f\x85Rs."
    with pytest.raises(WeightsError, match="is not a readable PyTorch checkpoint|could run code"):
        read_checkpoint(zipped(made, data_pkl=reduce, version="3"))


def test_a_compressed_file_is_refused_since_pytorch_takes_it_for_numbers(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as source,
        zipfile.ZipFile(tmp_path / "z.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(WeightsError, match="is compressed, as PyTorch writes none; refused"):
        read_checkpoint(tmp_path / "z.pth")


def test_more_tensors_and_a_longer_record_than_any_network_has_are_not_read(tmp_path, monkeypatch):
    save_file({name: torch.ones(1) for name in "abc"}, tmp_path / "w.safetensors", {"backbone": '{"a": 1}'})
    assert recorded(tmp_path / "w.safetensors") == {"a": 1}
    monkeypatch.setattr("drtune.backbones.weights.TENSORS", 2)
    monkeypatch.setattr("drtune.backbones.weights.LONGEST_RECORD", 7)
    assert recorded(tmp_path / "w.safetensors") == {}
    with pytest.raises(WeightsError, match="names 3 tensors, allowed are 2; refused"):
        read_checkpoint(tmp_path / "w.safetensors")
