"""`methods.bi_tuning` in params.yaml."""

from typing import Literal

from drtune.base.settings import Count, Fraction, Positive, Settings


class BiTuningSettings(Settings):
    """`methods.bi_tuning`."""

    weight: Positive
    temperature: Positive
    queue_size: Count
    key_momentum: Fraction
    projection_dim: Count
    class_scores: Literal["cosine", "dot"]
