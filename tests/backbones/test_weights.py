import pickle

import pytest
import timm
import torch
from torch import nn

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
            "no such file: .*; name a .safetensors or .pth file, the folder of a model .* catalog/timm",
        ),
        ("w.h5", b"x", r"unknown ending '.h5'; allowed: .safetensors, .npz, .pth"),
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
