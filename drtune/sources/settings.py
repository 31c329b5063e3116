"""`data` in params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from drtune.base.settings import Count, Settings, Whole


class DataSettings(Settings):
    """`data`: which images, and how they are split."""

    source: str
    shots: Count | None
    fraction: Annotated[float, Field(gt=0, le=1)]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Whole
    on_bad_image: Literal["error", "skip"]
