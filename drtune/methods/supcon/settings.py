"""`methods.supcon` in params.yaml."""

from drtune.base.settings import Fraction, Positive, Settings, Size


class SupConSettings(Settings):
    """`methods.supcon`."""

    weight: Fraction
    temperature: Positive
    projection_dim: Size | None
