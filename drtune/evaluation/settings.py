"""`evaluate` in params.yaml."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from drtune.base.faults import each_once
from drtune.base.settings import Settings, Size, Whole

Corruption = Literal["gaussian_noise", "gaussian_blur", "contrast", "jpeg", "fog"]
Severity = Literal[1, 2, 3, 4, 5]


class EvaluateSettings(Settings):
    """`evaluate`: measures on the sealed test split."""

    batch_size: Size
    bootstrap: Annotated[int, Field(ge=100)]
    calibration_bins: Annotated[int, Field(ge=2, le=1000)]
    worst: Whole
    corruptions: Annotated[list[Corruption], AfterValidator(each_once)]
    severities: Annotated[list[Severity], Field(min_length=1), AfterValidator(each_once)]
    seed: Whole
