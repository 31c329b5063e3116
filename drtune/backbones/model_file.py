"""The finished model on disk: `model.safetensors` and `model.json` rebuild it with no other file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from pydantic import AfterValidator, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from drtune.backbones.architecture import create_encoder
from drtune.backbones.classifier import Classifier
from drtune.backbones.settings import BackboneSettings, CropFraction, Deviations, Interpolation
from drtune.backbones.weights import read_tensors
from drtune.backbones.zoo import fixed_input, most_numbers
from drtune.base.errors import ConfigError, WeightsError
from drtune.base.faults import each_once, faults_of, plain_names, render
from drtune.base.files import read_json, replacing, write_json
from drtune.base.settings import Settings, ThreeNumbers
from drtune.data.settings import BEFORE, STANDARD, Reading
from drtune.data.transforms import InputSpec

WEIGHTS, CARD = "model.safetensors", "model.json"
MAX_TEXT = 2000
"""Characters of another library's error; a stranger's file can make it long."""


class CardInput(Settings):
    """`input` of model.json: an `InputSpec`."""

    size: Annotated[int, Field(ge=8, le=1024)]
    mean: ThreeNumbers
    std: Deviations
    interpolation: Interpolation
    crop_fraction: CropFraction


class Card(Settings, extra="ignore"):
    """What rebuilds a model; model.json holds more, for people."""

    timm_name: str
    timm_kwargs: dict[str, Any]
    image_size_given: bool
    feature_dim: Annotated[int, Field(ge=1, le=1_000_000)]
    classes: Annotated[list[str], Field(min_length=1), AfterValidator(each_once), AfterValidator(plain_names)]
    input: CardInput
    reading: Reading = BEFORE


def save_model(
    folder: Path,
    model: Classifier,
    backbone: BackboneSettings,
    spec: InputSpec,
    classes: list[str],
    about: dict[str, Any],
    reading: Reading = STANDARD,
) -> None:
    """Write a classifier into an existing folder; equal models give equal bytes.

    Args:
        folder: where `model.safetensors` and `model.json` go.
        model: trained classifier.
        backbone: how its encoder was built.
        spec: the input it expects.
        classes: class names in label order.
        about: method, settings and whatever else tells how it was made (JSON values).
        reading: what the pixels of its images' files mean.
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
        "reading": reading.model_dump(),
        **about,
    }
    write_json(folder / CARD, card)


def read_card(path: Path) -> dict[str, Any]:
    """What model.json says, which may be a stranger's; `reading` is parsed.

    Raises:
        WeightsError: listing every fault.
    """
    card = read_json(path)
    try:
        reading = Card.model_validate(card).reading
        if not timm.is_model(card["timm_name"].split(".")[0]):
            raise WeightsError(f"{path}: timm {timm.__version__} has no model {card['timm_name']!r:.100}")
    except ValidationError as error:
        text = render(str(path), faults_of("", Card, error))
        raise WeightsError(f"{text}\nit does not describe a model; `dvc repro train` makes one") from None
    return {**card, "reading": reading}


def load_model(folder: Path) -> tuple[Classifier, InputSpec, dict[str, Any]]:
    """Rebuild a classifier from its folder.

    Returns:
        The classifier in eval mode, the input it expects, and the whole card.

    Raises:
        ConfigError: the card asks for more than an architecture, or for too large a one.
        WeightsError: a file is missing or damaged, or the weights do not fit the card.
    """
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name}: no such file; run 'dvc repro train' to make the model")
    path = folder / CARD
    card, file = read_card(path), folder / WEIGHTS
    spec = InputSpec(**(card["input"] | {key: tuple(card["input"][key]) for key in ("mean", "std")}))
    try:
        sized = {"img_size": spec.size} if card["image_size_given"] and fixed_input(card["timm_name"]) else {}
        arguments = {**sized, **card["timm_kwargs"]}
        encoder = create_encoder(
            card["timm_name"], arguments, f"{path}, timm_kwargs", most_numbers(str(file))
        )
        model = Classifier(encoder, card["feature_dim"], len(card["classes"]))
        model.load_state_dict(read_tensors(file))
    except (ConfigError, WeightsError):
        raise
    except SafetensorError as fault:
        raise WeightsError(f"{file} is not a readable safetensors file ({fault}); fetch it again") from None
    except Exception as fault:  # of a card that does not fit timm, or weights that do not fit the card
        raise WeightsError(f"{file} does not fit {path}: {str(fault)[:MAX_TEXT]}") from None
    encoder.to(memory_format=torch.channels_last)
    return model.eval(), spec, card
