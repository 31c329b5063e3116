"""`methods.lp_ft` in params.yaml."""

from typing import Literal

from drtune.base.settings import Settings
from drtune.training.settings import BatchNormMode


class LPFTSettings(Settings):
    """`methods.lp_ft`; both replace train's: without the solved head it would be plain fine-tuning.

    `batch_norm: eval` is the official experiment `lp_then_ft_valmode`; null leaves train's.
    """

    head_init: Literal["bank"]
    batch_norm: BatchNormMode | None
