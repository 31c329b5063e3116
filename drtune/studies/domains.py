"""The values that one setting can take in a study."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from drtune.base.faults import describe

Value = float | int | str | bool
DIGITS, STEP_DIGITS = 6, 12
"""Significant digits of a number that a study tries, so that params.yaml holds it as people write it; of one
that steps lead to, which only must lose its rounding error."""
FINITE = 1_000_000
ON_STEP = 1e-8
"""Share of a step by which a value may miss one, as in Optuna."""


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included; whole ones, or multiples of `step` above `low`."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        steps = (value - self.low) / (self.grid or 1)
        return self.low <= value <= self.high and (not self.grid or abs(steps - round(steps)) < ON_STEP)

    def __len__(self) -> int:
        """How many values there are; `FINITE` stands for more than anyone tries."""
        if not self.grid:
            return FINITE
        return min(FINITE, 1 + math.floor((self.high - self.low) / self.grid + ON_STEP))

    def __iter__(self) -> Iterator[Value]:
        """All values; none where there are more than anyone tries."""
        count = len(self)
        return (self.low + number * (self.grid or 0) for number in range(count if count < FINITE else 0))

    @property
    def grid(self) -> float | None:
        """From each value to the next; None for all numbers in between."""
        return self.step or (1 if self.whole else None)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that stand for all."""
        return self.low, self.high


@dataclass(frozen=True)
class Choices:
    """A few values without an order."""

    values: tuple[Value, ...]

    def __contains__(self, value: object) -> bool:
        return any(
            value == other and isinstance(value, bool) == isinstance(other, bool) for other in self.values
        )

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Value]:
        return iter(self.values)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that stand for all."""
        return self.values


Domain = Interval | Choices
Space = Mapping[str, Domain]
"""Dotted name of a setting -> its domain."""


def checked_choices(values: Sequence[Any]) -> Choices:
    """Choices, at least two different ones."""
    if any(not isinstance(value, bool | int | float | str) for value in values):
        raise ValueError(f"choices must be numbers, text or true/false, got {list(values)!r}")
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise ValueError(f"choices must be finite, got {list(values)!r}")
    if len(values) < 2 or len({(type(value), value) for value in values}) < len(values):
        raise ValueError(f"needs at least two different choices, got {list(values)!r}")
    return Choices(tuple(values))


def checked_interval(entry: Mapping[str, Any], whole: bool) -> Interval:
    """An interval that is not empty and that its scale allows."""
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"log: expected true or false, got {describe(log)}")
    if low >= high:
        raise ValueError(f"the range is empty: low {low:g} is not below high {high:g}")
    if log and low <= 0:
        raise ValueError(f"a log range must lie above zero, got low {low:g}; raise low or drop log")
    if step is not None and (log or step <= 0 or step > high - low):
        raise ValueError(f"step {step:g}: must be above 0, at most high - low, and without log")
    if whole and not all(float(value).is_integer() for value in (low, high, step or 1)):
        raise ValueError(f"takes whole numbers, got low {low:g}, high {high:g}, step {step or 1:g}")
    if step is not None and (over := (exact(high) - exact(low)) % exact(step)):
        last = exact(high) - over
        raise ValueError(f"high {high:g} is no whole number of steps above low {low:g}; set high: {last:g}")
    kind = int if whole else float
    return Interval(kind(low), kind(high), log, None if step is None else kind(step), whole)


def exact(value: float) -> Decimal:
    """A number as it is written."""
    return Decimal(repr(value))


def rounded(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they are tried: numbers with few significant digits, within their interval."""
    found = dict(values)
    for name, value in values.items():
        domain = space[name]
        if isinstance(domain, Interval) and not domain.whole:
            digits = STEP_DIGITS if domain.step else DIGITS
            found[name] = min(max(float(f"{value:.{digits}g}"), domain.low), domain.high)
    return found


def count_of(space: Space) -> int:
    """How many points a space has; `FINITE` or more stands for more than anyone tries."""
    return math.prod(len(domain) for domain in space.values())


def points(space: Space) -> Iterator[dict[str, Any]]:
    """All points as they are tried, in order; none of a space that has more than anyone tries."""
    return (
        rounded(space, dict(zip(space, values, strict=True))) for values in itertools.product(*space.values())
    )
