"""`extract` in params.yaml."""

from typing import Literal

from drtune.base.settings import Settings, Size, Whole


class ExtractSettings(Settings):
    """`extract`: the bank of pretrained features."""

    views: Whole
    dtype: Literal["float16", "bfloat16", "float32"]
    batch_size: Size
    seed: Whole
