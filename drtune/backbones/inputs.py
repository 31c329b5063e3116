"""Which input an encoder expects: the one that its weights were trained on, as far as anyone can say."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import timm
from timm.data import resolve_model_data_config
from torch import nn

from drtune.backbones.wrappings import Input
from drtune.base.errors import WeightsError
from drtune.data.transforms import InputSpec

HUBS = ("hf-hub:", "local-dir:")
FIELDS = ("size", "mean", "std", "interpolation", "crop_fraction")


class Claim(NamedTuple):
    """Who says what of an input.

    Attributes:
        who: for people.
        input: what they say.
        of_itself: whether the weights' own file or folder says it.
    """

    who: str
    input: Input
    of_itself: bool = False


def input_spec(
    name: str, given: Input, encoder: nn.Module, claims: Sequence[Claim], foreign: bool
) -> InputSpec:
    """Size, normalisation and interpolation: as given, else by the weights' origin, else by timm's record.

    Args:
        name: `backbone.name`.
        given: what params.yaml says.
        encoder: of timm.
        claims: what is known of the weights, the nearest to them first.
        foreign: whether the weights come from a file, of which timm's record may say nothing.

    Raises:
        WeightsError: mean and std are not both given, and those who could know them differ.
    """
    known = recorded_by_timm(resolve_model_data_config(encoder))
    built = getattr(getattr(encoder, "patch_embed", None), "img_size", None)
    if fixed_input(name) and built:
        known = replace(known, size=int(built[-1]))
    if foreign and (given.mean is None or given.std is None):
        agree(name, normalising(name, known, [claim for claim in claims if claim.input.mean]))
    sized = [claim.input for claim in claims] if not fixed_input(name) else []
    found: dict[str, Any] = {}
    for field in FIELDS:
        others = sized if field == "size" else [claim.input for claim in claims]
        values = (getattr(source, field) for source in (given, *others, known))
        found[field] = next(value for value in values if value is not None)
    return InputSpec(**found)


def recorded_by_timm(config: dict[str, Any]) -> Input:
    """An input as timm's data config says it."""
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return Input(
        mean, std, str(config["interpolation"]), float(config["crop_pct"]), int(config["input_size"][-1])
    )


def fixed_input(name: str) -> bool:
    """Whether the architecture is built for one image size (`img_size`), as plain ViTs are."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config is not None and config.fixed_input_size)


def normalising(name: str, known: Input, claims: list[Claim]) -> list[Claim]:
    """Who could know the normalisation of weights from a file; timm by the tag in the name, else by all tags.

    Where the file says it itself, a name without a tag says nothing.
    """
    if "." in name or name.startswith(HUBS):
        return [*claims, Claim(f"timm's record of {name}", known)]
    if any(claim.of_itself for claim in claims):
        return claims
    if claims:
        return [*claims, Claim(f"timm's record of {name}, which has no tag", known)]
    tags = [(tag, timm.get_pretrained_cfg(tag)) for tag in timm.list_pretrained(f"{name}.*")]
    own = [Claim(f"timm's record of {name}, its first tag", known)]
    return own + [
        Claim(f"timm's record of {tag}", Input(tuple(config.mean), tuple(config.std)))
        for tag, config in tags
        if config is not None
    ]


def agree(name: str, claims: Sequence[Claim]) -> None:
    """Make sure that all claims have one mean and one standard deviation.

    Raises:
        WeightsError: naming the first two that differ.
    """
    for claim in claims[1:]:
        if rounded(claim.input) != rounded(claims[0].input):
            both = "; ".join(f"{one.who} says {said(one.input)}" for one in (claims[0], claim))
            tag = "" if "." in name else ", or the tag of these weights in backbone.name"
            raise WeightsError(
                "backbone.mean, backbone.std: which input the weights were trained on is not certain: "
                f"{both}; the features are wrong under the wrong one: give backbone.mean and "
                f"backbone.std{tag}"
            )


def rounded(value: Input) -> tuple[float, ...]:
    """Mean and standard deviation to three digits; files round them differently."""
    return tuple(round(number, 3) for number in (*(value.mean or ()), *(value.std or ())))


def said(value: Input) -> str:
    """Mean and standard deviation for people."""
    mean, std = (", ".join(f"{number:.4g}" for number in part or ()) for part in (value.mean, value.std))
    return f"mean [{mean}] and std [{std}]"
