"""A model of Hugging Face in a folder: `config.json`, its preprocessor and its weights, whole or in parts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from drtune.backbones.weights import read_checkpoint
from drtune.backbones.wrappings import Input, Three
from drtune.base.errors import UntrustedError, WeightsError
from drtune.base.files import read_json

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
NAMES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Of the weights, in the order in which they are preferred; with `.index.json` behind it, of the listing."""
ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for how an image is resized."""
PLAIN = re.compile(r"\w[\w.-]{0,200}")
"""A name of a file that is no path."""
MOST_BYTES, MOST_FILES = 4_000_000, 1000
"""Of a JSON file, of the parts of a model."""


def files_of(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder's model.

    Raises:
        WeightsError: none, several and no listing, or a part that is not there.
    """
    for name in NAMES:
        if (folder / name).is_file():
            return [folder / name]
        if (listing := folder / f"{name}.index.json").is_file():
            return parts_of(folder, listing)
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    if len(found) != 1:
        there = ", ".join(path.name for path in found[:5]) or "none"
        raise WeightsError(
            f"backbone.weights: {folder} holds no {NAMES[0]}, no {NAMES[1]} and no listing of their parts; "
            f"files of weights there: {there}; name the one you mean, or copy the whole folder of the model "
            "here"
        )
    return found


def parts_of(folder: Path, listing: Path) -> list[Path]:
    """The files that a listing of parts names.

    Raises:
        WeightsError: it lists nothing, or a file that is not there.
    """
    parts = [folder / name for name in listed_in(listing)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise WeightsError(
            f"backbone.weights: {folder} lacks {len(missing)} of the {len(parts)} parts that {listing.name} "
            f"lists: {', '.join(missing[:5])}; fetch the whole folder again"
        )
    return parts


def listed_in(listing: Path) -> list[str]:
    """Names of the files that a listing of parts gives.

    Raises:
        WeightsError: none, too many, or one that is no plain name; a link is followed, because caches of the
            hub and of DVC hold nothing else.
    """
    places = read_small(listing).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, Mapping) else []
    if not 0 < len(names) <= MOST_FILES:
        raise WeightsError(
            f"backbone.weights: {listing} lists no files under weight_map; fetch the folder again"
        )
    if odd := [name for name in names if not PLAIN.fullmatch(name)]:
        raise WeightsError(
            f"backbone.weights: {listing} lists {odd[0]!r:.100}, which is no name of a file in there; refused"
        )
    return names


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, or of all the files of a folder's model.

    Raises:
        WeightsError: as `read_checkpoint` and `files_of`.
    """
    if not path.is_dir():
        return read_checkpoint(path)
    state: dict[str, Tensor] = {}
    for part in files_of(path):
        state |= read_checkpoint(part)
    return state


def size_of(path: Path) -> int:
    """Bytes of a checkpoint, or of all the files of a folder's model; 0 where there is none."""
    if path.is_dir():
        return sum(part.stat().st_size for part in files_of(path))
    return path.stat().st_size if path.is_file() else 0


def read_small(path: Path) -> dict[str, Any]:
    """A JSON mapping of reasonable size.

    Raises:
        WeightsError: it is none.
    """
    try:
        found = read_json(path) if path.stat().st_size <= MOST_BYTES else None
    except UntrustedError as fault:
        raise WeightsError(f"backbone.weights: {fault}") from None
    if not isinstance(found, dict):
        raise WeightsError(
            f"backbone.weights: {path}: expected a JSON mapping of at most {MOST_BYTES:,} bytes; fetch it "
            f"again"
        )
    return found


def described(path: Path) -> tuple[Input, dict[str, Any]]:
    """What a folder says of its model; nothing for a file.

    Returns:
        The input that it was trained on, and arguments of its architecture that shapes do not show.

    Raises:
        WeightsError: values that are none.
    """
    if not path.is_dir():
        return Input(), {}
    files = (path / CONFIG, path / PREPROCESSOR)
    config, given = (read_small(file) if file.is_file() else {} for file in files)
    parts = [config.get(key) for key in ("vision_config", "pretrained_cfg")]
    vision, timm_own = (part if isinstance(part, dict) else config for part in parts)
    try:
        return input_of(vision, given, timm_own), demands_of(vision)
    except (TypeError, ValueError, LookupError) as fault:
        raise WeightsError(
            f"backbone.weights: {path}: {CONFIG} or {PREPROCESSOR} holds a value that is none of its kind "
            f"({fault}); correct it, or give backbone.mean, std, image_size and interpolation"
        ) from None


def input_of(config: Mapping[str, Any], given: Mapping[str, Any], timm_own: Mapping[str, Any]) -> Input:
    """The input that the files of a folder agree on: its preprocessor's, else that of timm's own config."""
    sizes = timm_own.get("input_size") or []
    wanted = given.get("crop_size") if given.get("do_center_crop") else given.get("size")
    wanted = wanted or config.get("image_size") or (sizes[-1] if sizes else None)
    mean, std = given.get("image_mean") or timm_own.get("mean"), given.get("image_std") or timm_own.get("std")
    if given.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    way = given["resample"] if "resample" in given else timm_own.get("interpolation")
    crop = given.get("crop_pct") or timm_own.get("crop_pct")
    if crop is None and given.get("size") and wanted:  # without a central crop both are one, and it is 1
        crop = min(1.0, side_of(wanted) / side_of(given["size"]))
    return Input(
        three(mean),
        three(std),
        RESAMPLING.get(way) if isinstance(way, int) else way,
        None if crop is None else float(crop),
        None if not wanted else side_of(wanted),
    )


def three(values: Any) -> Three | None:
    """Three numbers of a JSON file; one stands for all."""
    if values is None:
        return None
    numbers = [float(value) for value in (values if isinstance(values, list | tuple) else [values])]
    if len(numbers) not in (1, 3):
        raise ValueError(f"{values!r:.80}, expected three numbers")
    return (numbers[0], numbers[-2 if len(numbers) > 1 else 0], numbers[-1])


def side_of(value: Any) -> int:
    """Pixels of the (shorter) side that a size names: 224, {"height": 224, …} or {"shortest_edge": 256}."""
    if isinstance(value, Mapping):
        value = value.get("shortest_edge") or value["height"]
    return int(value[-1] if isinstance(value, list | tuple) else value)


def demands_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the architecture that a config names and shapes do not show."""
    heads, act = config.get("num_attention_heads"), config.get("hidden_act")
    found: dict[str, Any] = {"num_heads": heads} if isinstance(heads, int) else {}
    return found | ({"act_layer": act} if act in ("quick_gelu", "gelu") else {})
