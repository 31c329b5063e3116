"""Build the encoder that `backbone` in params.yaml names, and say which input it expects."""

import difflib
import math
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants as hub
from huggingface_hub import hf_hub_download
from pydantic import ValidationError
from timm.data import resolve_model_data_config
from torch import nn

from drtune.backbones.architecture import create_encoder
from drtune.backbones.classifier import Classifier
from drtune.backbones.recipe import Recipe, read_recipe
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.weights import fingerprint, first_line, load_encoder, read_checkpoint, recorded
from drtune.base.errors import ConfigError, WeightsError
from drtune.base.faults import faults_of, render
from drtune.base.files import sha256_of
from drtune.base.yaml import ENDINGS
from drtune.data.transforms import InputSpec

PUBLISHED = "model.safetensors"
KWARGS = "backbone.kwargs (or what the weights file records of them)"
ALWAYS = 50_000_000
"""Numbers of a network that is made whatever the size of its file; buffers need not be in there."""
HUB_SECONDS = 5.0
"""Longest wait for the hub's first answer; its own client would ask for a minute before it gives up."""


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder.

    Attributes:
        encoder: maps images [B, 3, size, size] to pooled features [B, D].
        feature_dim: D.
        spec: the input it expects.
        fingerprint: SHA-256 of its weights, whatever file they came from.
        settings: how it was built, with what the weights file records filled in.
    """

    encoder: nn.Module
    feature_dim: int
    spec: InputSpec
    fingerprint: str
    settings: BackboneSettings

    def classifier(self, num_classes: int) -> Classifier:
        """This encoder, not a copy of it, under a linear head for so many classes."""
        return Classifier(self.encoder, self.feature_dim, num_classes)


def build_backbone(settings: BackboneSettings) -> Backbone:
    """Build a timm encoder and load its weights.

    Raises:
        ConfigError: unknown model name, arguments that the model does not take, or a recipe with faults.
        WeightsError: weights that cannot be had, read or fitted.
    """
    check_name(settings.name)
    recipe = read_recipe(settings.weights)
    settings = completed(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder = create(settings, recipe)
    spec = input_spec(settings, encoder)
    if recipe is None:
        path = Path(settings.weights)
        load_encoder(encoder, read_checkpoint(path), classifier_of(encoder), path.name)
    identity = fingerprint(encoder)
    encoder.to(memory_format=torch.channels_last)  # convolutions run up to twice as fast, depthwise most
    return Backbone(encoder, probe_dim(encoder, spec, settings.name), spec, identity, settings)


def completed(settings: BackboneSettings) -> BackboneSettings:
    """Fill what is null from the record in the weights file, where that is of this architecture.

    Raises:
        WeightsError: the record holds something else than the settings of a backbone.
    """
    record = recorded(Path(settings.weights))
    if record.pop("name", None) != settings.name:
        return settings
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
    if name.startswith(("hf-hub:", "local-dir:")) or timm.is_model(plain):
        return
    near = difflib.get_close_matches(plain, timm.list_models(), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"backbone.name: timm {timm.__version__} has no model {name!r}{hint} (timm.list_models() lists all)"
    )


def create(settings: BackboneSettings, recipe: Recipe | None) -> nn.Module:
    """Create the timm model without a classifier, with timm's own weights where asked for."""
    arguments: dict[str, Any] = dict(settings.kwargs or {})
    if settings.image_size is not None and fixed_input(settings.name):
        arguments.setdefault("img_size", settings.image_size)
    if recipe is not None and recipe.weights == "timm":
        return create_pretrained(settings.name, arguments, recipe)
    try:
        model = create_encoder(settings.name, arguments, KWARGS, most_numbers(settings.weights))
    except ConfigError:
        raise
    except TypeError as fault:
        raise ConfigError(does_not_take(settings.name, arguments, fault)) from None
    except Exception as fault:
        raise ConfigError(f"backbone: {settings.name} with {arguments}: {first_line(fault)}") from fault
    return model


def most_numbers(weights: str) -> float:
    """How many numbers a network can have whose weights come from this file; a small one always may."""
    path = Path(weights)
    is_recipe = weights.endswith(ENDINGS) or not path.is_file()
    return math.inf if is_recipe else max(ALWAYS, path.stat().st_size)


def create_pretrained(name: str, arguments: dict[str, Any], recipe: Recipe) -> nn.Module:
    """Create a timm model with the weights that timm publishes.

    Raises:
        ConfigError: arguments that the model does not take.
        WeightsError: weights that cannot be had, are not those of the recipe, or do not fit the arguments.
    """
    silence = hub_silence()
    try:
        with cache_alone(bool(silence)):
            source = pinned_source(name, recipe)
            model: nn.Module = create_encoder(
                name, arguments, KWARGS, pretrained=True, pretrained_cfg_overlay=source
            )
    except (ConfigError, WeightsError):
        raise
    except TypeError as fault:
        raise ConfigError(does_not_take(name, arguments, fault)) from None
    except Exception as fault:
        if isinstance(fault, RuntimeError) and "state_dict" in str(fault):
            raise WeightsError(
                f"backbone.weights: the weights that timm publishes for {name} do not fit it with "
                f"backbone.kwargs {arguments}; set backbone.kwargs to null"
            ) from None
        raise WeightsError(hub_text(name, silence or first_line(fault))) from None
    return model


def pinned_source(name: str, recipe: Recipe) -> dict[str, str] | None:
    """Where timm shall take its weights from, in words of its own record; None where nothing is pinned.

    Raises:
        WeightsError: timm takes them from elsewhere, or the file is another one.
    """
    if recipe.revision is None and recipe.sha256 is None:
        return None
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not config.hf_hub_id:
        raise WeightsError(
            f"backbone.weights: the recipe pins revision or sha256, but timm has no weights of {name} on the "
            "Hugging Face hub; set both to null, or fetch a file and name it in backbone.weights"
        )
    path = hf_hub_download(config.hf_hub_id, PUBLISHED, revision=recipe.revision)
    found = sha256_of(Path(path))
    if recipe.sha256 not in (None, found):
        raise WeightsError(
            f"backbone.weights: {PUBLISHED} of {config.hf_hub_id} has sha256 {found}, the recipe says "
            f"{recipe.sha256}; correct the recipe, or pin the revision that has that file"
        )
    return {"file": path}


def does_not_take(name: str, arguments: dict[str, Any], fault: Exception) -> str:
    """Say that a model does not know an argument."""
    return f"backbone.kwargs: {name} does not take {arguments}: {first_line(fault)}"


def hub_silence() -> str:
    """Why the Hugging Face hub cannot be asked; empty where it answers, be it with a refusal."""
    try:
        request = urllib.request.Request(hub.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
    except OSError as fault:
        reason = getattr(fault, "reason", fault)
        if not isinstance(fault, urllib.error.HTTPError) and not isinstance(reason, ssl.SSLError):
            return f"{hub.ENDPOINT} does not answer ({reason})"
    return ""


@contextmanager
def cache_alone(alone: bool) -> Iterator[None]:
    """Within the block, where `alone`, the hub's client looks into its local cache and asks nobody."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or alone
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def fixed_input(name: str) -> bool:
    """Whether the architecture is built for one image size (`img_size`), as plain ViTs are."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config is not None and config.fixed_input_size)


def hub_text(name: str, reason: str) -> str:
    """Say that timm could not fetch its weights, and which file to put where instead."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    source = getattr(config, "hf_hub_id", None) or getattr(config, "url", None) or "(timm lists no weights)"
    return (
        f"backbone.weights: timm could not get the weights of {name} from {source}: {reason}\n"
        "  remedy: on a machine with access fetch its model.safetensors, copy it here and set "
        f"backbone.weights to the path; or fill the local cache, {hub.HF_HUB_CACHE}"
    )


def classifier_of(encoder: nn.Module) -> str:
    """Name of the classifier module in this architecture, such as `fc` or `head`."""
    config: dict[str, Any] = getattr(encoder, "pretrained_cfg", None) or {}
    name = config.get("classifier") or ""
    return name if isinstance(name, str) else name[0]


def input_spec(settings: BackboneSettings, encoder: nn.Module) -> InputSpec:
    """Input size, normalisation and interpolation: as given, else as timm records for the weights."""
    known = resolve_model_data_config(encoder)
    return InputSpec(
        size=settings.image_size or int(known["input_size"][-1]),
        mean=tuple(settings.mean or known["mean"]),
        std=tuple(settings.std or known["std"]),
        interpolation=settings.interpolation or str(known["interpolation"]),
        crop_fraction=settings.crop_fraction or float(known["crop_pct"]),
    )


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
