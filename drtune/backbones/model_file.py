"""The finished model on disk: `model.safetensors` and `model.json` rebuild it with no other file."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file

from drtune.backbones.architecture import create_encoder
from drtune.backbones.classifier import Classifier
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import fixed_input
from drtune.base.errors import WeightsError
from drtune.base.files import read_json, replacing, write_json
from drtune.data.transforms import InputSpec

WEIGHTS, CARD = "model.safetensors", "model.json"


def save_model(
    folder: Path,
    model: Classifier,
    backbone: BackboneSettings,
    spec: InputSpec,
    classes: list[str],
    about: dict[str, Any],
) -> None:
    """Write a classifier into an existing folder; equal models give equal bytes.

    Args:
        folder: where `model.safetensors` and `model.json` go.
        model: trained classifier.
        backbone: how its encoder was built.
        spec: the input it expects.
        classes: class names in label order.
        about: method, settings and whatever else tells how it was made (JSON values).
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing(folder / WEIGHTS) as fresh:
        save_file(state, fresh)
    card = {
        "timm_name": backbone.name,
        "timm_kwargs": backbone.kwargs or {},
        "image_size_given": backbone.image_size is not None,
        "feature_dim": model.feature_dim,
        "classes": classes,
        "input": asdict(spec),
        **about,
    }
    write_json(folder / CARD, card)


def checked_card(path: Path) -> dict[str, Any]:
    """What model.json says, which may be a stranger's.

    Raises:
        WeightsError: it lacks what rebuilds a model, or names one that is not timm's own.
    """
    try:
        card = read_json(path)
        name, width, spec = card["timm_name"], card["feature_dim"], card["input"]
        sound = isinstance(card["classes"], list) and 1 <= width <= 1_000_000 and 8 <= spec["size"] <= 1024
        sound &= len(spec["mean"]) == len(spec["std"]) == 3 and isinstance(card["timm_kwargs"], dict)
    except (KeyError, TypeError, ValueError, RecursionError):
        name, sound = "", False
    if not sound or not timm.is_model(str(name).split(".")[0]):
        raise WeightsError(
            f"{path} does not describe a model of timm {timm.__version__}; `dvc repro train` makes one"
        )
    return dict(card)


def load_model(folder: Path) -> tuple[Classifier, InputSpec, dict[str, Any]]:
    """Rebuild a classifier from its folder.

    Returns:
        The classifier in eval mode, the input it expects, and the whole card.

    Raises:
        WeightsError: a file is missing, or the weights do not fit the card.
    """
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name}: no such file; run 'dvc repro train' to make the model")
    card = checked_card(folder / CARD)
    spec = InputSpec(**(card["input"] | {key: tuple(card["input"][key]) for key in ("mean", "std")}))
    sized = {"img_size": spec.size} if card["image_size_given"] and fixed_input(card["timm_name"]) else {}
    encoder = create_encoder(
        card["timm_name"], {**sized, **card["timm_kwargs"]}, f"{folder / CARD}, timm_kwargs"
    )
    model = Classifier(encoder, card["feature_dim"], len(card["classes"]))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as fault:
        raise WeightsError(f"{folder / WEIGHTS} does not fit {folder / CARD}: {fault}") from None
    encoder.to(memory_format=torch.channels_last)
    return model.eval(), spec, card
