"""The values that one setting can take in a study: Optuna's distributions, checked in words and as JSON."""

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from drtune.base.faults import describe

Domain = FloatDistribution | IntDistribution | CategoricalDistribution
Space = Mapping[str, Domain]
"""Dotted name of a setting -> its domain."""
DIGITS, STEP_DIGITS = 6, 12
"""Significant digits of a number that a study tries, so that params.yaml holds it as people write it; of one
that steps lead to, which only must lose its rounding error."""
FINITE = 1_000_000
"""Stands for more values than anyone tries."""


def ends(domain: Domain) -> tuple[Any, ...]:
    """Values that stand for all: every choice, or both ends of a range."""
    return domain.choices if isinstance(domain, CategoricalDistribution) else (domain.low, domain.high)


def holds(domain: Domain, value: object) -> bool:
    """Whether a value is one of the domain's."""
    if isinstance(domain, CategoricalDistribution):
        return value in domain.choices
    return isinstance(value, int | float) and not isinstance(value, bool) and domain._contains(value)


def values_of(domain: Domain) -> Sequence[Any]:
    """All values, in order; none of a range that has more than anyone tries."""
    if isinstance(domain, CategoricalDistribution):
        return domain.choices
    count = 1 + round((domain.high - domain.low) / domain.step) if domain.step else FINITE
    return [domain.low + number * (domain.step or 0) for number in range(count)] if count < FINITE else ()


def count_of(space: Space) -> int:
    """How many points a space has; `FINITE` or more stands for more than anyone tries."""
    return math.prod(len(values_of(domain)) or FINITE for domain in space.values())


def points(space: Space) -> Iterator[dict[str, Any]]:
    """All points as they are tried, in order; none of a space that has more than anyone tries."""
    every = itertools.product(*map(values_of, space.values()))
    return (rounded(space, dict(zip(space, values, strict=True))) for values in every)


def rounded(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they are tried: numbers with few significant digits, within their range."""
    found = dict(values)
    for name, value in values.items():
        if isinstance(domain := space[name], FloatDistribution):
            digits = STEP_DIGITS if domain.step else DIGITS
            found[name] = min(max(float(f"{value:.{digits}g}"), domain.low), domain.high)
    return found


def checked_choices(values: Sequence[Any]) -> CategoricalDistribution:
    """Choices, at least two different ones; a ValueError says what is wrong."""
    if any(not isinstance(value, bool | int | float | str | None) for value in values):
        raise ValueError(f"choices must be numbers, text, true/false or null, got {list(values)!r}")
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise ValueError(f"choices must be finite, got {list(values)!r}")
    if len(values) < 2 or len(set(values)) < len(values):  # Optuna takes 1, 1.0 and true for one choice
        raise ValueError(f"needs at least two different choices, got {list(values)!r}")
    return CategoricalDistribution(values)


def checked_range(entry: Mapping[str, Any], whole: bool) -> FloatDistribution | IntDistribution:
    """A range that is not empty and that its scale allows; a ValueError says what is wrong."""
    for key in ("low", "high", "step"):
        value = entry.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key}: expected a number, got {describe(value)}")
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
    with warnings.catch_warnings(action="ignore"):  # Optuna says the same
        steps = (
            IntDistribution(low, high, log, step or 1) if whole else FloatDistribution(low, high, log, step)
        )
    if steps.high != high:
        what = f"high {high:g} is no whole number of steps above low {low:g}"
        raise ValueError(f"{what}; set high: {steps.high:g}")
    return steps


def written(value: Any) -> str:
    """A value as params.yaml has it, shortly."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def described(domain: Domain) -> dict[str, Any]:
    """A domain as JSON."""
    if isinstance(domain, CategoricalDistribution):
        return {"choices": list(domain.choices)}
    whole = isinstance(domain, IntDistribution)
    step = None if whole and domain.step == 1 else domain.step
    return {"low": domain.low, "high": domain.high, "log": domain.log, "step": step, "whole": whole}


def domain_from(value: Mapping[str, Any]) -> Domain:
    """Back from JSON."""
    if "choices" in value:
        return CategoricalDistribution(value["choices"])
    low, high, log, step = (value[key] for key in ("low", "high", "log", "step"))
    return (
        IntDistribution(low, high, log, step or 1)
        if value["whole"]
        else FloatDistribution(low, high, log, step)
    )
