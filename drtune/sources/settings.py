"""`data` in params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from drtune.base.settings import Count, Settings, Whole
from drtune.data.settings import Reading


class Columns(Settings):
    """`data.columns`: what the columns of a table of labels are called; None leaves one alone."""

    image: str
    label: str
    split: str | None
    group: str | None
    weight: str | None


class DataSettings(Reading):
    """`data`: which images, how they are split, and what their pixels mean."""

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
    max_megapixels: Annotated[float, Field(gt=0, le=1000)]

    @property
    def reading(self) -> Reading:
        """What the pixels mean, without the rest."""
        return Reading(**{name: getattr(self, name) for name in Reading.model_fields})
