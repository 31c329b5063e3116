"""Read the tensors of any published checkpoint, and nothing else of it.

Only tensors are read: a pickle that would run code is refused. What a file is, its first bytes say, not its
ending. `fitting.py` says how the tensors get into an encoder.
"""

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from drtune.backbones.stand_ins import SAFE
from drtune.base.errors import WeightsError

State = Mapping[str, Tensor]
DAMAGED = "it is cut short or damaged: fetch it again"
RECORD = "backbone"
INFLATED = 4
"""How many times its size a file may unpack to."""
TENSORS, LONGEST_RECORD = 20_000, 1_000_000
"""Parameters and buffers, more than timm's architectures have; characters of a file's own record."""
DEEPEST, MOST_NAMES = 6, 100_000
"""Levels of mappings in a checkpoint, names in it."""
PICKLES = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".pkl", ".pyth", ".pth.tar")
STARTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights: run `git lfs pull` where it comes "
     "from"),
    ((b"<!doc", b"<html", b"<?xml"), "is a page of a web site (HTML), not weights: fetch the file itself, "
     "not the page that shows it"),
    (b"\x89hdf", "is a Keras file (HDF5); take the PyTorch or safetensors weights of the same model"),
    (b"\x1f\x8b", "is compressed (gzip): unpack it, and name what it holds"),
    (b"bzh", "is compressed (bzip2): unpack it, and name what it holds"),
    (b"\xfd7zxz", "is compressed (xz): unpack it, and name what it holds"),
    (b"gguf", "is a GGUF file; take the PyTorch or safetensors weights of the same model"),
)  # fmt: skip
"""First bytes, in lower case, of what people take for weights, and what to do about it."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, without running any code in it.

    Returns:
        Tensors by name; those in mappings within the file have the names of these before theirs, with dots.

    Raises:
        WeightsError: no such file, another format, damaged, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"backbone.weights: no such file: {path}; name a .safetensors or .pth file, the folder of a "
            "model of Hugging Face, or a recipe: catalog/timm.yaml for the weights that timm publishes, "
            "catalog/random.yaml for random ones"
        )
    kind = kind_of(path)
    if kind == "safetensors":
        try:
            state = read_tensors(path)
        except (SafetensorError, OSError) as fault:
            raise WeightsError(
                f"backbone.weights: {path} is not a readable safetensors file ({fault}); {DAMAGED}"
            ) from None
    elif kind == "npz":
        state = read_npz(path)
    else:
        state = named_tensors(read_pickle(path))
    if not state:
        raise WeightsError(
            f"backbone.weights: {path} holds no named tensors; expected a state dict, at the top or in "
            "mappings within, such as 'state_dict', 'model' or 'teacher'"
        )
    return {name: checked(name, value, path) for name, value in state.items()}


def kind_of(path: Path) -> str:
    """What a file is: `safetensors`, `npz` or `pickle`; its ending counts where its first bytes say nothing.

    Raises:
        WeightsError: it is something else, with what to do about it.
    """
    with path.open("rb") as stream:
        start = stream.read(512)
    ending = path.suffix.lower()
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return "safetensors"
    for first, what in STARTS:
        if start.lower().lstrip().startswith(first):
            raise WeightsError(f"backbone.weights: {path} {what}")
    if start.startswith(b"PK"):
        return kind_of_zip(path)
    if start[257:262] == b"ustar":
        raise WeightsError(f"backbone.weights: {path} is a tar archive: unpack it, and name what it holds")
    if start[:1] == b"\x80":
        return "pickle"
    if ending == ".json":
        raise WeightsError(f"backbone.weights: {path} is a listing; name the folder that it lies in")
    if ending in (".safetensors", ".npz"):
        return ending[1:]
    if ending in PICKLES:
        return "pickle"
    raise WeightsError(
        f"backbone.weights: {path.name} has an unknown ending {path.suffix!r}; "
        f"allowed: .safetensors, .npz, {', '.join(PICKLES)}"
    )


def kind_of_zip(path: Path) -> str:
    """`npz` or `pickle` for a zip archive of arrays or of PyTorch.

    Raises:
        WeightsError: it is neither, or unpacks to several times its size; neither code ever compresses.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return "pickle"  # PyTorch says what is wrong with it
    unpacked = sum(member.file_size for member in members)
    if unpacked > INFLATED * path.stat().st_size + 1_000_000:
        what = f"unpacks to {unpacked:,} bytes, far more than it holds"
        raise WeightsError(f"backbone.weights: {path} {what}; refused")
    names = [member.filename for member in members]
    if any(name.endswith("constants.pkl") for name in names):
        raise WeightsError(
            f"backbone.weights: {path} is a TorchScript program, not weights alone; load it once with "
            "torch.jit.load and save its tensors: torch.save(module.state_dict(), 'weights.pth')"
        )
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if not any(name.endswith("data.pkl") for name in names):
        raise WeightsError(f"backbone.weights: {path} is a zip archive: unpack it, and name what it holds")
    if any(member.compress_type for member in members):  # PyTorch would take it for plain numbers
        raise WeightsError(f"backbone.weights: {path} is compressed, as PyTorch writes none; refused")
    return "pickle"


def read_pickle(path: Path) -> Any:
    """What torch.save has written, with stand-ins for settings.

    Raises:
        WeightsError: damaged, or it names what could run code.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(SAFE), path.open("rb") as stream:
            warnings.simplefilter("ignore")  # of old pickle protocols; what matters is raised
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        raise WeightsError(
            f"backbone.weights: {path} holds more than tensors and could run code when it is read; refused. "
            "Where you trust its origin, load it there once and save its tensors with "
            f"safetensors.torch.save_file. {refusal(fault)}"
        ) from None
    except Exception as fault:  # PyTorch raises many kinds on bytes that are no checkpoint
        raise WeightsError(
            f"backbone.weights: {path} is not a readable PyTorch checkpoint "
            f"({first_line(fault).split('. ')[0] or type(fault).__name__}); {DAMAGED}"
        ) from None


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of a NumPy archive.

    Raises:
        WeightsError: damaged, or arrays of something else than numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, KeyError, zipfile.BadZipFile) as fault:
        raise WeightsError(
            f"backbone.weights: {path} is not a readable NumPy archive of numbers ({first_line(fault)}); "
            f"{DAMAGED}"
        ) from None


def named_tensors(content: Any) -> dict[str, Tensor]:
    """Tensors by name in a mapping and in the mappings within, as far as a checkpoint needs."""
    found: dict[str, Tensor] = {}
    waiting, seen = [("", content)], 0
    while waiting:
        before, mapping = waiting.pop()
        if not isinstance(mapping, Mapping) or before.count(".") > DEEPEST:
            continue
        for key, value in mapping.items():
            seen += 1
            if seen > MOST_NAMES:
                return {}
            if isinstance(value, Tensor):
                found[f"{before}{key}"] = value
            else:
                waiting.append((f"{before}{key}.", value))
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        SafetensorError, OSError: it is none.
        WeightsError: it names more than any network has, which alone would take minutes to read.
    """
    with safe_open(path, framework="pt") as file:
        if (count := len(file.keys())) > TENSORS:
            raise WeightsError(f"{path}: names {count:,} tensors, allowed are {TENSORS:,}; refused")
    return dict(load_file(path))


def recorded(path: Path) -> dict[str, Any]:
    """What a `.safetensors` file of ours says of its backbone, as keys of the `backbone` section."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(RECORD, "{}")
            record = json.loads(text) if len(text) <= LONGEST_RECORD else {}
    except (SafetensorError, OSError, ValueError, RecursionError):
        return {}  # read_checkpoint says what is wrong with the file; a record that is none says nothing
    return dict(record) if isinstance(record, dict) else {}


def checked(name: str, value: Tensor, path: Path) -> Tensor:
    """A tensor of a checkpoint that holds what it says.

    Raises:
        WeightsError: it is sparse, complex, quantized, without data, or larger than its data.
    """
    kind = "sparse" if value.layout != torch.strided else "complex" if value.is_complex() else ""
    kind = kind or ("without data" if value.is_meta else "quantized" if value.is_quantized else "")
    if not kind and value.numel() * value.element_size() > value.untyped_storage().nbytes():
        kind = "larger than its data"
    if kind:
        what = f"{name[:100]} is a {kind} tensor"
        raise WeightsError(f"backbone.weights: {path}: {what}; weights are plain numbers")
    return value


def refusal(fault: Exception) -> str:
    """Which name PyTorch stopped at, without its advice to load it none the less."""
    found = re.search(r"GLOBAL (\S+)", str(fault))
    return f"It names {found[1]}" if found else ""


def first_line(fault: Exception) -> str:
    """First line of an error's text."""
    return str(fault).strip().split("\n")[0]


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and values of a module's parameters and buffers, in name order."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
