"""`backbone` in params.yaml."""

from typing import Annotated, Any, Literal

from pydantic import Field

from drtune.base.settings import Positive, Settings, ThreeNumbers, Whole

Deviations = Annotated[list[Positive], Field(min_length=3, max_length=3)]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
CropFraction = Annotated[float, Field(ge=0.1, le=1)]


class BackboneSettings(Settings):
    """`backbone`: which network, its weights, and the input it expects (null: as its weights record)."""

    name: str
    weights: str
    kwargs: dict[str, Any] | None
    image_size: Annotated[int, Field(ge=8, le=1024)] | None
    mean: ThreeNumbers | None
    std: Deviations | None
    interpolation: Interpolation | None
    crop_fraction: CropFraction | None
    seed: Whole
