"""`extract` in params.yaml."""

from typing import Literal

from drtune.base.settings import Count, Settings, Whole


class ExtractSettings(Settings):
    """`extract`: the bank of pretrained features."""

    views: Whole
    dtype: Literal["float16", "bfloat16", "float32"]
    batch_size: Count
    seed: Whole
