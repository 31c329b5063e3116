import pickle
import random
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from drtune.backbones.weights import fingerprint, read_checkpoint, recorded
from drtune.base.errors import WeightsError


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


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102\n"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("w.pth", LFS, "w.pth is a Git LFS pointer, not the weights: run `git lfs pull` where it comes from"),
        ("w.safetensors", LFS, "is a Git LFS pointer"),
        (
            "w.pth",
            b"\n <!DOCTYPE html><html>Virus scan warning</html>",
            r"is a page of a web site \(HTML\), "
            "not",
        ),
        ("w.safetensors", b"<html><head>", "fetch the file itself, not the page that shows it"),
        ("w.pth", b"\x1f\x8b\x08" + bytes(99), r"is compressed \(gzip\): unpack it, and name what it holds"),
        ("w.h5", b"\x89HDF\r\n", r"is a Keras file \(HDF5\); take the PyTorch or safetensors weights"),
        ("w.tar", bytes(257) + b"ustar" + bytes(300), "is a tar archive: unpack it, and name what it holds"),
        ("w.index.json", b"{}", "is a listing; name the folder that it lies in"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=text):
        read_checkpoint(tmp_path / name)


def test_first_bytes_count_and_endings_do_not(tmp_path):
    state = {"a.weight": torch.arange(6.0).view(2, 3)}
    for name in ("pytorch_model.bin", "W.SAFETENSORS", "w", "w.pth"):
        save_file(state, tmp_path / name)
    for name in ("W.PTH", "moco.pkl", "w.model", "w2.safetensors"):
        torch.save(state, tmp_path / name)
    torch.save(state, tmp_path / "old.PTH.TAR", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        assert torch.equal(read_checkpoint(path)["a.weight"], state["a.weight"]), path


def test_programs_and_archives_of_others_say_what_to_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "scripted.pt", "w") as archive:
        for name in ("scripted/data.pkl", "scripted/code/__torch__.py", "scripted/constants.pkl"):
            archive.writestr(name, b"x")
    with pytest.raises(WeightsError, match=r"is a TorchScript program.*torch.save\(module.state_dict\(\)"):
        read_checkpoint(tmp_path / "scripted.pt")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("w.bin", b"x")
    with pytest.raises(WeightsError, match="is a zip archive: unpack it, and name what it holds"):
        read_checkpoint(tmp_path / "w.pth")
    (tmp_path / "byol.pkl").write_bytes(pickle.dumps({"w": np.ones(3)}))
    with pytest.raises(WeightsError, match="not a readable PyTorch checkpoint|could run code"):
        read_checkpoint(tmp_path / "byol.pkl")


def test_nested_mappings_without_end_are_not_followed(tmp_path):
    inner = {f"k{i}": {} for i in range(400)}
    for _ in range(3):
        inner = {f"k{i}": inner for i in range(400)}
    torch.save({"a": torch.ones(1), "deep": inner}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no named tensors"):
        read_checkpoint(tmp_path / "w.pth")


def test_fingerprint_follows_values_not_files():
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    b.load_state_dict(a.state_dict())
    assert fingerprint(a) == fingerprint(b)
    with torch.no_grad():
        b.bias[1] += 1e-6
    assert fingerprint(a) != fingerprint(b)


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
