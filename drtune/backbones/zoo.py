"""Build the encoder that `backbone` in params.yaml names, and say which input it expects."""

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import ValidationError
from torch import nn

from drtune.backbones.architecture import KWARGS, create_encoder, does_not_take
from drtune.backbones.classifier import Classifier
from drtune.backbones.folder import size_of
from drtune.backbones.hub import create_pretrained
from drtune.backbones.inputs import HUBS, Claim, fixed_input, input_spec, said
from drtune.backbones.loading import load_weights, located
from drtune.backbones.recipe import Recipe, read_recipe
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.weights import fingerprint, first_line, recorded
from drtune.backbones.wrappings import Input
from drtune.base.errors import ConfigError, WeightsError
from drtune.base.faults import faults_of, render
from drtune.data.transforms import InputSpec

ALWAYS = 50_000_000
"""Numbers of a network that is made whatever the size of its file; buffers need not be in there."""


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder.

    Attributes:
        encoder: maps images [B, 3, size, size] to pooled features [B, D].
        feature_dim: D.
        spec: the input it expects.
        fingerprint: SHA-256 of its weights, whatever file they came from.
        settings: how it was built, with what the weights file records filled in.
        taken: what was taken of a file of weights, what was left out and which input is assumed, in one line;
            empty where nothing had to be assumed.
    """

    encoder: nn.Module
    feature_dim: int
    spec: InputSpec
    fingerprint: str
    settings: BackboneSettings
    taken: str = ""

    def classifier(self, num_classes: int) -> Classifier:
        """This encoder, not a copy of it, under a linear head for so many classes."""
        return Classifier(self.encoder, self.feature_dim, num_classes)


def build_backbone(given: BackboneSettings) -> Backbone:
    """Build a timm encoder and load its weights.

    Raises:
        ConfigError: unknown model name, arguments that the model does not take, or a recipe with faults.
        WeightsError: weights that cannot be had, read or fitted, or whose input nobody can say.
    """
    check_name(given.name)
    recipe = read_recipe(given.weights)
    settings, source = located(given, recipe)
    record = recorded_for(settings)
    settings = completed(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder = create(settings, recipe, source)
    claims, taken = ([], "") if source is None else load_weights(encoder, source)
    if record:
        claims.insert(0, Claim(f"{settings.weights}, its own record", of_settings(settings), of_itself=True))
    asked = of_settings(given.model_copy(update={"image_size": settings.image_size}))
    spec = input_spec(settings.name, asked, encoder, claims, source is not None)
    if taken and (not record or "left out" in taken):
        who = "params.yaml" if asked.mean else next((c.who for c in claims if c.input.mean), "timm's record")
        taken += f"; input as {who} has it: {spec.size} px, {said(of_spec(spec))}, {spec.interpolation}"
    else:
        taken = ""
    identity = fingerprint(encoder)
    encoder.to(memory_format=torch.channels_last)  # convolutions run up to twice as fast, depthwise most
    return Backbone(encoder, probe_dim(encoder, spec, settings.name), spec, identity, settings, taken)


def of_settings(settings: BackboneSettings) -> Input:
    """The input that settings give."""
    mean, std = (tuple(part) if part else None for part in (settings.mean, settings.std))
    return Input(mean, std, settings.interpolation, settings.crop_fraction, settings.image_size)  # type: ignore[arg-type]


def of_spec(spec: InputSpec) -> Input:
    """The normalisation that a spec has."""
    return Input(spec.mean, spec.std)


def recorded_for(settings: BackboneSettings) -> dict[str, Any]:
    """What a weights file of ours says of this architecture, whatever its tag; nothing of another one."""
    record = recorded(Path(settings.weights))
    same = str(record.pop("name", None)).split(".")[0] == settings.name.split(".")[0]
    return record if same else {}


def completed(settings: BackboneSettings) -> BackboneSettings:
    """Fill what is null from the record in the weights file, where that is of this architecture.

    Raises:
        WeightsError: the record holds something else than the settings of a backbone.
    """
    record = recorded_for(settings)
    missing = {key: value for key, value in record.items() if getattr(settings, key, 0) is None}
    try:
        return BackboneSettings.model_validate(settings.model_dump() | missing)
    except ValidationError as error:
        faults = faults_of("backbone", BackboneSettings, error)
        text = render(f"{settings.weights}, its header", faults)
        raise WeightsError(f"{text}\nname the values in params.yaml, or take another file") from None


def check_name(name: str) -> None:
    """Refuse a name that timm does not know, with the nearest ones."""
    plain = name.split(".")[0]
    if name.startswith(HUBS) or timm.is_model(plain):
        return
    near = difflib.get_close_matches(plain, timm.list_models(), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"backbone.name: timm {timm.__version__} has no model {name!r}{hint} (timm.list_models() lists all)"
    )


def create(settings: BackboneSettings, recipe: Recipe | None, source: Path | None) -> nn.Module:
    """Create the timm model without a classifier, with timm's own weights where asked for.

    Raises:
        ConfigError: arguments that the model does not take, or another number of channels than three.
    """
    arguments: dict[str, Any] = dict(settings.kwargs or {})
    if arguments.get("in_chans", 3) != 3:
        raise ConfigError(
            f"backbone.kwargs: in_chans {arguments['in_chans']}: images are always given as red, green and "
            "blue, grey ones too; leave it out"
        )
    if settings.image_size is not None and fixed_input(settings.name):
        arguments.setdefault("img_size", settings.image_size)
    if recipe is not None and recipe.weights == "timm" and source is None:
        return create_pretrained(settings.name, arguments, recipe)
    try:
        model = create_encoder(settings.name, arguments, KWARGS, most_numbers(source))
    except ConfigError:
        raise
    except TypeError as fault:
        raise ConfigError(does_not_take(settings.name, arguments, fault)) from None
    except Exception as fault:
        raise ConfigError(f"backbone: {settings.name} with {arguments}: {first_line(fault)}") from fault
    return model


def most_numbers(source: Path | None) -> float:
    """How many numbers a network can have whose weights come from this file; a small one always may."""
    size = size_of(source) if source is not None else 0
    return max(ALWAYS, size) if size else math.inf


@torch.no_grad()
def probe_dim(encoder: nn.Module, spec: InputSpec, name: str) -> int:
    """Width of the encoder's output, found by running one blank image.

    Raises:
        ConfigError: the encoder cannot take this image size, or does not return pooled features.
    """
    training = encoder.training
    encoder.eval()
    try:
        output = encoder(torch.zeros(1, 3, spec.size, spec.size))
    except (RuntimeError, AssertionError, ValueError) as fault:
        raise ConfigError(
            f"backbone.image_size: {name} cannot take images of {spec.size} px: {first_line(fault)}"
        ) from None
    encoder.train(training)
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise ConfigError(
            f"backbone.name: {name} does not return pooled features [B, D]; choose a classifier"
        )
    return int(output.shape[1])
