"""`methods.core_tuning` in params.yaml."""

from typing import Literal

from drtune.base.settings import Positive, Settings, Size


class CoreTuningSettings(Settings):
    """`methods.core_tuning`; docs/methods.md says where the paper's form and the official code's differ."""

    eta: Positive
    alpha: Positive
    temperature: Positive
    projection_dim: Size
    faithful: Literal["paper", "official_code"]
