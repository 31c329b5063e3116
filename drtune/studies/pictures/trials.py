"""The trials of a study as plain data: the best, the unbeaten, the count, the words for them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drtune.evaluation.pictures.style import shorten
from drtune.studies.pictures.scales import Value

LINE, LETTER = 0.04, 0.015  # height and width of text, as a share of the picture's


@dataclass(frozen=True)
class Point:
    """One trial.

    Args:
        number: from 0, the settings of params.yaml as they stand.
        state: COMPLETE | PRUNED | FAIL.
        values: one an objective; of a pruned trial the last that it reported, or none.
        params: dotted name -> number, text or true/false.
    """

    number: int
    state: str
    values: tuple[float, ...]
    params: Mapping[str, Value]


def measured(points: Sequence[Point], state: str) -> list[Point]:
    """The trials of a state with finite values, by number."""
    chosen = [p for p in points if p.state == state and p.values and all(map(math.isfinite, p.values))]
    return sorted(chosen, key=lambda point: point.number)


def best_of(done: Sequence[Point], maximize: bool) -> Point:
    """The trial with the best first value; of equals the earliest."""
    return (max if maximize else min)(done, key=lambda point: point.values[0])


def pareto(done: Sequence[Point], maximize: Sequence[bool]) -> list[Point]:
    """The trials that none is at least equal to in both objectives and better in one, along the first."""
    signs = [1 if more else -1 for more in maximize]
    gains = {p.number: tuple(sign * value for sign, value in zip(signs, p.values, strict=True)) for p in done}

    def beaten(gain: tuple[float, ...]) -> bool:
        return any(g != gain and all(a >= b for a, b in zip(g, gain, strict=True)) for g in gains.values())

    return sorted((p for p in done if not beaten(gains[p.number])), key=lambda p: (p.values, p.number))


def numbered(
    unbeaten: Sequence[Point], spots: Mapping[int, tuple[float, float]]
) -> dict[tuple[float, float], str]:
    """Place in the plane of both objectives -> numbers of the trials there, in the order given.

    Args:
        unbeaten: neighbours follow one another.
        spots: number -> where the trial lies in the picture, in [0, 1] along both sides. Where texts would
            overlap, the first place gets all numbers.
    """
    numbers: dict[tuple[float, float], str] = {}
    here, place = (-1.0, -1.0), (0.0, 0.0)
    for point in unbeaten:
        x, y = spots[point.number]
        text = numbers.get(place, "")
        if abs(y - here[1]) < LINE and abs(x - here[0]) < LETTER * (len(text) + 2):
            numbers[place] = f"{text}, {point.number}"
        else:
            here, place = (x, y), (point.values[0], point.values[1])
            numbers[place] = str(point.number)
    return {place: shorten(text) for place, text in numbers.items()}


def counted(points: Sequence[Point]) -> str:
    """How many trials there are, and how they ended."""
    states = Counter(point.state for point in points)
    words = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}
    parts = [f"{states[state]} {word}" for state, word in words.items() if states[state]]
    one = "trial" if len(points) == 1 else "trials"
    return f"{len(points)} {one} ({', '.join(parts)})" if parts else f"{len(points)} {one}"


def names_of(points: Sequence[Point]) -> list[str]:
    """Every parameter that some trial has, in the order of first appearance."""
    return list(dict.fromkeys(name for point in points for name in point.params))


def sided(metric: str, maximize: bool) -> str:
    """A metric's name with its good side."""
    return f"{shorten(metric, 40)} ({'higher' if maximize else 'lower'} is better)"
