"""Load any published checkpoint into a timm encoder, strictly.

Only tensors are read: a pickle that would run code is refused. After the wrapping of a known pre-training
code is taken off, every encoder key must be there with its shape, and nothing may be left over except a
classifier or the parts that the pre-training code is known to add.
"""

import hashlib
import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from drtune.backbones.architecture import TENSORS
from drtune.base.errors import WeightsError

State = Mapping[str, Tensor]
DAMAGED = "it is cut short or damaged: fetch it again"
RECORD = "backbone"
INFLATED = 4
"""How many times its size a file may unpack to."""
LONGEST_RECORD = 1_000_000
"""Characters of what a file says of its backbone."""
LONGEST_SIDE = 256
"""Patches along a side of the largest position embedding that is resampled."""
PICKLES = (".pth", ".pt", ".bin", ".tar", ".ckpt")


@dataclass(frozen=True)
class Wrapping:
    """How a pre-training code names an encoder inside its checkpoints.

    Attributes:
        origin: the code that writes checkpoints like this.
        prefix: stands before every encoder key.
        extra: beginnings of keys that are not part of the encoder.
    """

    origin: str
    prefix: str
    extra: tuple[str, ...] = ()


WRAPPINGS = (
    # facebookresearch/moco main_lincls.py:162-173; salesforce/PCL eval_cls_imagenet.py:168-180; HCSC alike
    Wrapping("MoCo, PCL, HCSC", "module.encoder_q.", ("module.encoder_k.", "module.queue")),
    # facebookresearch/simsiam main_lincls.py:170-180
    Wrapping("SimSiam", "module.encoder.", ("module.predictor.",)),
    # HobbitLong/PyContrast linear_trainer.py:53-71
    Wrapping("InfoMin, PyContrast", "module.encoder.", ("module.head", "module.jig")),
    # facebookresearch/swav eval_linear.py:150-165
    Wrapping("SwAV", "module.", ("module.projection_head.", "module.prototypes.")),
    Wrapping("this project", "encoder.", ("head.",)),
    Wrapping("timm, torchvision", ""),
)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` or PyTorch checkpoint, without running any code in it.

    Raises:
        WeightsError: no such file, another format, damaged, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"backbone.weights: no such file: {path}; name a .safetensors or .pth file, or a recipe: "
            "catalog/timm.yaml for the weights that timm publishes, catalog/random.yaml for random ones"
        )
    if path.suffix == ".safetensors":
        try:
            return {name: checked(name, value, path) for name, value in read_tensors(path).items()}
        except (SafetensorError, OSError) as fault:
            raise WeightsError(
                f"backbone.weights: {path} is not a readable safetensors file ({fault}); {DAMAGED}"
            ) from None
    if path.suffix not in PICKLES:
        raise WeightsError(
            f"backbone.weights: {path.name} has an unknown ending {path.suffix!r}; "
            f"allowed: .safetensors, {', '.join(PICKLES)}"
        )
    refuse_inflated(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols; what matters is raised
            content = torch.load(path, map_location="cpu", weights_only=True)
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
    return tensors_of(content, path)


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
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(RECORD, "{}")
            record = json.loads(text) if len(text) <= LONGEST_RECORD else {}
    except (SafetensorError, OSError, ValueError, RecursionError):
        return {}  # read_checkpoint says what is wrong with the file; a record that is none says nothing
    return dict(record) if isinstance(record, dict) else {}


def refuse_inflated(path: Path) -> None:
    """Refuse a PyTorch file that is small on the disk and large in memory; PyTorch itself never compresses.

    Raises:
        WeightsError: what it would unpack to is several times its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return  # an older form, or read_checkpoint says what is wrong with it
    unpacked = sum(member.file_size for member in members)
    if any(member.compress_type for member in members):  # PyTorch would take it for plain numbers
        raise WeightsError(f"backbone.weights: {path} is compressed, as PyTorch writes none; refused")
    if unpacked > INFLATED * path.stat().st_size + 1_000_000:
        what = f"unpacks to {unpacked:,} bytes, far more than it holds"
        raise WeightsError(f"backbone.weights: {path} {what}; refused")


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


def tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the mapping of names to tensors in a checkpoint, which may sit under a customary key."""
    for key in ("state_dict", "model", "model_state_dict", None):
        inner = content if key is None else (content.get(key) if isinstance(content, Mapping) else None)
        if isinstance(inner, Mapping):
            found = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
            if found:
                return {name: checked(name, value, path) for name, value in found.items()}
    raise WeightsError(
        f"backbone.weights: {path} holds no named tensors; expected a state dict, at the top or under "
        "'state_dict', 'model' or 'model_state_dict'"
    )


def load_encoder(encoder: nn.Module, state: State, classifier: str, origin: str) -> None:
    """Copy a checkpoint into an encoder in place, or refuse it whole.

    Args:
        encoder: timm model without its classifier.
        state: named tensors as read.
        classifier: name of the classifier in this architecture (timm's `pretrained_cfg`); its keys may be
            in the checkpoint and are left out.
        origin: how errors name the checkpoint.

    Raises:
        WeightsError: listing missing, unexpected and misshapen keys.
    """
    expected = encoder.state_dict()
    wrapping = best_wrapping(state, expected)
    plain = {
        key.removeprefix(wrapping.prefix): value
        for key, value in state.items()
        if key.startswith(wrapping.prefix) and not key.startswith(wrapping.extra or ("\0",))
    }
    stray = [key for key in state if not key.startswith((wrapping.prefix, *wrapping.extra))]
    plain = {key: value for key, value in plain.items() if not is_classifier(key, classifier)}
    plain = resized_positions(encoder, plain, expected)
    # counters that old checkpoints lack and that only matter for cumulative averages
    missing = [k for k in expected if k not in plain and not k.endswith("num_batches_tracked")]
    unexpected = [key for key in plain if key not in expected] + stray
    there = [key for key in expected if key in plain]
    misshapen = [
        f"{key} {tuple(plain[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in there
        if plain[key].shape != expected[key].shape
    ]
    other = [
        f"{key} {plain[key].dtype}"
        for key in there
        if expected[key].is_floating_point() and not plain[key].is_floating_point()
    ]
    if missing or unexpected or misshapen or other:
        lists = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        lists["no floating-point numbers"] = other
        raise WeightsError(mismatch_text(origin, wrapping, lists))
    encoder.load_state_dict(plain, strict=False)


def best_wrapping(state: State, expected: State) -> Wrapping:
    """The wrapping under which most encoder keys are found; the least left over decides a tie."""

    def score(wrapping: Wrapping) -> tuple[int, int]:
        found = sum(wrapping.prefix + key in state for key in expected)
        left = sum(not key.startswith((wrapping.prefix, *wrapping.extra)) for key in state)
        return found, -left

    return max(WRAPPINGS, key=score)


def is_classifier(key: str, classifier: str) -> bool:
    """Whether a key belongs to a classifier: timm's name of it, or `fc`/`head`/`classifier`."""
    names = {classifier, "fc", "head", "classifier"} - {""}
    return any(key.startswith(f"{name}.") for name in names)


def resized_positions(encoder: nn.Module, state: dict[str, Tensor], expected: State) -> dict[str, Tensor]:
    """Resample a ViT's position embedding to the grid at hand, as timm does for another image size."""
    key = "pos_embed"
    if key not in state or key not in expected or state[key].shape == expected[key].shape:
        return state
    grid = list(encoder.patch_embed.grid_size)  # type: ignore[union-attr, arg-type]
    prefix = 0 if getattr(encoder, "no_embed_class", False) else int(encoder.num_prefix_tokens)  # type: ignore[arg-type]
    tokens = state[key].shape[1] - prefix if state[key].ndim == 3 else 0
    side = math.isqrt(max(tokens, 0))
    fits = state[key].shape[::2] == (1, expected[key].shape[-1]) and state[key].is_floating_point()
    if not fits or tokens != side**2 or not 1 <= side <= LONGEST_SIDE:
        return state  # its shape will be called another one
    return {**state, key: resample_abs_pos_embed(state[key], grid, num_prefix_tokens=prefix)}


def mismatch_text(origin: str, wrapping: Wrapping, lists: Mapping[str, list[str]]) -> str:
    """Say which keys do not fit, at most ten of a kind."""
    lines = [f"backbone.weights: {origin} does not fit backbone.name (read as {wrapping.origin}):"]
    for kind, keys in lists.items():
        if keys:
            shown = ", ".join(sorted(keys)[:10]) + (f" … ({len(keys)} in all)" if len(keys) > 10 else "")
            lines.append(f"  {kind}: {shown}")
    lines.append(
        "  remedy: name the architecture these weights were made for in backbone.name and backbone.kwargs"
    )
    return "\n".join(lines)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and values of a module's parameters and buffers, in name order."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
