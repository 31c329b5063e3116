"""Weights from the Hugging Face hub, or from its local cache where the hub does not answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants as hub
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import nn

from drtune.backbones.architecture import KWARGS, create_encoder, does_not_take
from drtune.backbones.folder import CONFIG, NAMES, PREPROCESSOR, files_of, listed_in
from drtune.backbones.recipe import Recipe
from drtune.backbones.weights import first_line
from drtune.base.errors import ConfigError, WeightsError
from drtune.base.files import sha256_of
from drtune.base.hub import silence_of

PUBLISHED = "model.safetensors"


def fetched(repository: str, recipe: Recipe) -> Path:
    """The folder of a model of the hub: what it says of itself, and its weights.

    Args:
        repository: `OWNER/NAME`, with `@REVISION` behind it or without.
        recipe: its revision and sha256 are heeded.

    Raises:
        WeightsError: it cannot be had, or its weights are not those of the recipe.
    """
    name, _, revision = repository.partition("@")
    silence = hub_silence()

    def get(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(name, file, revision=recipe.revision or revision or None))
        except EntryNotFoundError:
            return None

    try:
        with cache_alone(bool(silence)):
            found = get(CONFIG)
            get(PREPROCESSOR)
            for weights in NAMES:
                if (whole := get(weights)) is not None:
                    found = whole
                    break
                if (listing := get(f"{weights}.index.json")) is not None:
                    for part in listed_in(listing):
                        get(part)
                    found = listing
                    break
    except WeightsError:
        raise
    except Exception as fault:
        raise WeightsError(folder_text(name, silence or first_line(fault))) from None
    if found is None or found.name == CONFIG:
        raise WeightsError(folder_text(name, silence or f"it has none of {', '.join(NAMES)}"))
    check_sha256(files_of(found.parent), name, recipe)
    return found.parent


def check_sha256(files: list[Path], repository: str, recipe: Recipe) -> None:
    """Make sure that the weights are those of the recipe.

    Raises:
        WeightsError: naming both digests.
    """
    found = [sha256_of(path) for path in files] if recipe.sha256 else []
    if found and found != [recipe.sha256]:
        raise WeightsError(
            f"backbone.weights: {files[0].name} of {repository} has sha256 {found[0]}, the recipe says "
            f"{recipe.sha256}; correct the recipe, or pin the revision that has that file"
        )


def folder_text(repository: str, reason: str) -> str:
    """Say that a model of the hub could not be had, and how to bring it."""
    return (
        f"backbone.weights: could not get {repository} from the Hugging Face hub: {reason}\n"
        f"  remedy: on a machine with access run `hf download {repository} --local-dir FOLDER`, copy FOLDER "
        f"here and set backbone.weights to it; or fill the local cache, {hub.HF_HUB_CACHE}"
    )


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
    check_sha256([Path(path)], config.hf_hub_id, recipe)
    return {"file": path}


def hub_silence() -> str:
    """Why the Hugging Face hub cannot be asked; empty where it answers."""
    reason = silence_of(hub.ENDPOINT)
    return f"{hub.ENDPOINT} does not answer ({reason})" if reason else ""


@contextmanager
def cache_alone(alone: bool) -> Iterator[None]:
    """Within the block, where `alone`, the hub's client looks into its local cache and asks nobody."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or alone
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def hub_text(name: str, reason: str) -> str:
    """Say that timm could not fetch its weights, and which file to put where instead."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    source = getattr(config, "hf_hub_id", None) or getattr(config, "url", None) or "(timm lists no weights)"
    return (
        f"backbone.weights: timm could not get the weights of {name} from {source}: {reason}\n"
        "  remedy: on a machine with access fetch its model.safetensors, copy it here and set "
        f"backbone.weights to the path; or fill the local cache, {hub.HF_HUB_CACHE}"
    )
