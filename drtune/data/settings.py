"""`augment` in params.yaml."""

from typing import Annotated

from pydantic import Field

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
