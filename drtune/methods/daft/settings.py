"""`methods.daft` in params.yaml."""

from typing import Literal

from drtune.base.settings import NonNegative, Settings
from drtune.training.settings import BatchNormMode


class DAFTSettings(Settings):
    """`methods.daft`; the last three replace those of `train`."""

    statistics: Literal["total_variance", "official"]
    head_init: Literal["normal", "zero", "bank"] | None
    batch_norm: BatchNormMode | None
    weight_decay: NonNegative | None
