"""Where the weights that `backbone` names are, and how they get into an encoder."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from drtune.backbones.fitting import Fit, left_out, load_encoder
from drtune.backbones.folder import CONFIG, described, read_small, read_weights
from drtune.backbones.hub import fetched
from drtune.backbones.inputs import HUBS, Claim
from drtune.backbones.jax import is_of_jax, load_jax
from drtune.backbones.recipe import Recipe
from drtune.backbones.refusals import refuse_other_traits
from drtune.backbones.settings import BackboneSettings
from drtune.base.errors import ConfigError


def located(settings: BackboneSettings, recipe: Recipe | None) -> tuple[BackboneSettings, Path | None]:
    """Find the weights, and the architecture where `backbone.name` names a model's folder or the hub.

    Returns:
        Settings with timm's name of the architecture; the file or folder of the weights, None for those that
        timm publishes and for random ones.

    Raises:
        ConfigError: a name of a folder or of the hub beside other weights, or a model that timm cannot make.
        WeightsError: weights that cannot be had.
    """
    source = Path(settings.weights) if recipe is None else None
    if recipe is not None and recipe.repository is not None:
        source = fetched(recipe.repository, recipe)
    scheme, colon, place = settings.name.partition(":")
    if scheme + colon not in HUBS:
        return settings, source
    if scheme == "hf-hub" and recipe is not None and recipe.weights == "timm":
        source = fetched(place, recipe)
    elif scheme == "hf-hub":
        raise ConfigError(
            f"backbone.weights: {settings.name} brings its own weights, {settings.weights} are others; set "
            "backbone.weights to catalog/timm.yaml, or name the architecture in backbone.name"
        )
    elif source is None or source.resolve() != Path(place).resolve():
        raise ConfigError(
            f"backbone.weights: {settings.weights} stands beside {settings.name}; name the same folder "
            f"there, {place}, so that DVC watches it"
        )
    folder = source if source is not None and source.is_dir() else Path(place)
    if not folder.is_dir():
        raise ConfigError(f"backbone.name: {settings.name}: no such folder; name that of a model of timm")
    config = read_small(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    name = str(config.get("architecture"))
    if not timm.is_model(name):
        raise ConfigError(
            f"backbone.name: {settings.name}: its {CONFIG} names no model of timm (architecture: "
            f"{name:.60}); set backbone.name to timm's name of this architecture, and backbone.weights to "
            "the folder"
        )
    arguments = settings.kwargs if settings.kwargs is not None else config.get("model_args")
    return settings.model_copy(update={"name": name, "kwargs": arguments}), source


def load_weights(encoder: nn.Module, source: Path) -> tuple[list[Claim], str]:
    """Load a checkpoint, or the folder of a model, into an encoder.

    Returns:
        Who says what of the input it was trained on, the nearest first; what was taken, in words.

    Raises:
        WeightsError: it cannot be read, or does not fit.
    """
    state = read_weights(source)
    if is_of_jax(state):
        fit = load_jax(encoder, source, state)
        state = {key: value for key, value in state.items() if "head/" in key or "pre_logits/" in key}
    else:
        fit = load_encoder(encoder, state, classifier_of(encoder), source.name)
    folder, demands = described(source)
    refuse_other_traits(encoder, demands, f"{source.name}, {CONFIG},")
    claims = [Claim(f"{source.name}, its {CONFIG}", folder, of_itself=True)] if source.is_dir() else []
    if fit.record is not None:
        claims.append(Claim(fit.record.origin, fit.record.input))
    claims.append(Claim(fit.naming, fit.input))
    return claims, read_as(fit, state, source.name)


def read_as(fit: Fit, state: dict[str, torch.Tensor], name: str) -> str:
    """What was taken of a checkpoint, what was left out and what was changed, in one line."""
    out = left_out(fit, state)
    shown = ", ".join(out[:6]) + (f" and {len(out) - 6} more" if len(out) > 6 else "")
    words = [f"weights: {name} read as {fit.origin}, {len(fit.state)} tensors"]
    words += [f"left out: {shown}"] if out else []
    return "; ".join([*words, *fit.changes])


def classifier_of(encoder: nn.Module) -> str:
    """Name of the classifier module in this architecture, such as `fc` or `head`."""
    config: dict[str, Any] = getattr(encoder, "pretrained_cfg", None) or {}
    name = config.get("classifier") or ""
    return name if isinstance(name, str) else name[0]
