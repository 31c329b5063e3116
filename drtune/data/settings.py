"""`augment` in params.yaml, and those keys of `data` that say what a file's pixels mean."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from drtune.base.settings import Fraction, NonNegative, Range, Settings


class AugmentSettings(Settings):
    """`augment`: how a training image is varied."""

    crop_area: Range
    crop_ratio: Range
    horizontal_flip: Fraction
    rotation: Annotated[float, Field(ge=0, le=180)]
    shift: Fraction
    color_jitter: Fraction
    blur: NonNegative


def ascending(span: list[float] | None) -> list[float] | None:
    """Validate that a range has a length."""
    if span is not None and span[0] >= span[1]:
        low, high = (f"{end:g}" for end in span)
        raise PydanticCustomError(
            "sentence", "lower end {low} is not below upper end {high}", {"low": low, "high": high}
        )
    return span


Span = Annotated[list[float], Field(min_length=2, max_length=2)]


class Reading(Settings):
    """How the pixels of a file become 8-bit RGB; kept with the data set and with the model.

    Attributes:
        colour: `grey` takes the colours away; the picture has three equal channels then.
        profiles: `srgb` applies colour profiles, `ignore` passes over them.
        frames: `error` refuses files of several frames or pages, `first` takes the first.
        value_range: values of 16-bit, 32-bit and floating-point pixels that become 0 and 255; what lies
            outside is cut off. None: 0 and 65535, and 32-bit and floating-point pixels are refused.
    """

    colour: Literal["rgb", "grey"]
    profiles: Literal["srgb", "ignore"]
    frames: Literal["error", "first"]
    value_range: Annotated[Span | None, AfterValidator(ascending)]


STANDARD = Reading(colour="rgb", profiles="srgb", frames="error", value_range=None)
"""As the shipped params.yaml has it; a card of a data set that says nothing means this."""
BEFORE = STANDARD.model_copy(update={"profiles": "ignore"})
"""As models were trained whose model.json says nothing."""
