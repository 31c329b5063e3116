"""`methods.bss` in params.yaml."""

from drtune.base.settings import Count, Positive, Settings


class BSSSettings(Settings):
    """`methods.bss`."""

    eta: Positive
    k: Count
