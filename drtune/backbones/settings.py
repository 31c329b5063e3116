"""`backbone` in params.yaml."""

from typing import Annotated, Any, Literal

from pydantic import Field

from drtune.base.settings import Positive, Settings, ThreeNumbers, Whole


class BackboneSettings(Settings):
    """`backbone`: which network, its weights, and the input it expects (null: as its weights record)."""

    name: str
    weights: str
    kwargs: dict[str, Any] | None
    image_size: Annotated[int, Field(ge=8, le=1024)] | None
    mean: ThreeNumbers | None
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None
    crop_fraction: Annotated[float, Field(gt=0, le=1)] | None
    seed: Whole
