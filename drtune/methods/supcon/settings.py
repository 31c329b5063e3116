"""`methods.supcon` in params.yaml."""

from drtune.base.settings import Count, Fraction, Positive, Settings


class SupConSettings(Settings):
    """`methods.supcon`."""

    weight: Fraction
    temperature: Positive
    projection_dim: Count | None
