"""`methods.bi_tuning` in params.yaml."""

from typing import Literal

from drtune.base.settings import Fraction, Positive, Settings, Size


class BiTuningSettings(Settings):
    """`methods.bi_tuning`."""

    weight: Positive
    temperature: Positive
    queue_size: Size
    key_momentum: Fraction
    projection_dim: Size
    class_scores: Literal["cosine", "dot"]
