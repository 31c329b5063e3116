"""`methods.daft` in params.yaml."""

from typing import Literal

from drtune.base.settings import Settings


class DAFTSettings(Settings):
    """`methods.daft`."""

    statistics: Literal["total_variance", "official"]
