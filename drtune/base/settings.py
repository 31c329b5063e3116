"""Settings: closed, frozen, typed sections of params.yaml; each type stands beside the code that reads it."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=1, le=65536)]  # of a tensor that is made before a step is taken
Whole = Annotated[int, Field(ge=0)]
ThreeNumbers = Annotated[list[float], Field(min_length=3, max_length=3)]
Range = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class Settings(BaseModel):
    """Base of every section: unknown keys are faults, values are frozen, text is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


class Params:
    """A settings file as read: raw values plus the parsed sections asked for.

    Args:
        source: how faults name the file.
        raw: section -> key -> value.
        parsed: dotted name of a section -> its settings; `train` with what the active method replaces of it.
        replaced: that, by key; the values that give way are those of `raw`.
    """

    def __init__(
        self,
        source: str,
        raw: Mapping[str, Any],
        parsed: Mapping[str, Settings],
        replaced: Mapping[str, Any],
    ) -> None:
        self.source, self.raw, self.replaced = source, raw, replaced
        self._parsed = parsed

    def __getitem__(self, section: type[S]) -> S:
        """Return the parsed section of this type."""
        return next(value for value in self._parsed.values() if isinstance(value, section))

    def method(self, name: str) -> Settings:
        """Return the parsed settings of a method."""
        return self._parsed[f"methods.{name}"]
