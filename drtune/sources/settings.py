"""`data` in params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from drtune.base.settings import Count, Settings, Whole


class Columns(Settings):
    """`data.columns`: what the columns of a table of labels are called; None leaves one alone."""

    image: str
    label: str
    split: str | None
    group: str | None
    weight: str | None


class DataSettings(Settings):
    """`data`: which images, and how they are split."""

    source: str
    labels: str | None
    columns: Columns
    group: str | None
    shots: Count | None
    fraction: Annotated[float, Field(gt=0, le=1)]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Whole
    on_bad_image: Literal["error", "skip"]
