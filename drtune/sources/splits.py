"""Which images go where: pure functions of labels and a seed.

Every class is shuffled by its own stream of the seed, so the draw of one class does not depend on how many
images the others have.
"""

from collections.abc import Sequence

import numpy as np

from drtune.base.errors import DataError
from drtune.base.faults import some
from drtune.base.seeding import derive

Indices = list[int]


def by_class(labels: Sequence[int]) -> dict[int, Indices]:
    """Row indices of each class that occurs, classes in ascending order."""
    groups: dict[int, Indices] = {label: [] for label in sorted(set(labels))}
    for row, label in enumerate(labels):
        groups[label].append(row)
    return groups


def shuffled(rows: Indices, seed: int, purpose: str, label: int) -> Indices:
    """Shuffle the rows of one class by a stream of its own."""
    return [rows[position] for position in permutation(len(rows), derive(seed, purpose, label))]


def permutation(count: int, seed: int) -> Indices:
    """Shuffle 0..count-1 as `torch.randperm` does on the CPU, without the seconds that importing it takes.

    Both draw 32-bit numbers of MT19937 and shuffle as Fisher and Yates did; pytorch/pytorch at d0f2af8,
    aten/src/ATen/native/TensorFactories.cpp, `randperm_cpu`, for N < 2^32 / 20.

    Args:
        count: N.
        seed: of `torch.Generator.manual_seed`, which takes its lowest 32 bits.
    """
    draws = np.random.RandomState(seed % 2**32).randint(0, 2**32, max(count - 1, 0), dtype=np.uint32)
    order = list(range(count))
    for place, draw in enumerate(draws.tolist()):
        other = place + draw % (count - place)
        order[place], order[other] = order[other], order[place]
    return order


def cut(
    labels: Sequence[int],
    fraction: float,
    seed: int,
    *,
    purpose: str,
    classes: Sequence[str],
    keep: int = 1,
) -> tuple[Indices, Indices]:
    """Cut rows in two, class by class: the rest, and about `fraction` of each class.

    Args:
        labels: [N] class indices.
        fraction: share of the second part.
        seed: equal seeds give equal cuts.
        purpose: name of the second part; different purposes draw independently.
        classes: class names by label, for the message.
        keep: images of each class that must stay in the first part.

    Returns:
        Two ascending lists of rows; each holds every class at least once.

    Raises:
        DataError: classes with fewer than `keep` + 1 images.
    """
    groups = by_class(labels)
    small = [f"{classes[label]} ({len(rows)})" for label, rows in groups.items() if len(rows) < keep + 1]
    if small:
        raise DataError(
            f"cutting {purpose} needs at least {keep + 1} images in every class; too few in: "
            + some(small, 20)
        )
    second: Indices = []
    for label, rows in groups.items():
        count = min(max(round(len(rows) * fraction), 1), len(rows) - keep)
        second += shuffled(rows, seed, purpose, label)[:count]
    chosen = set(second)
    return [row for row in range(len(labels)) if row not in chosen], sorted(chosen)


def few_shot(labels: Sequence[int], shots: int, seed: int) -> Indices:
    """Draw `shots` rows of each class, or all of a class that has fewer; ascending.

    With one seed, fewer shots are a subset of more shots.
    """
    groups = by_class(labels)
    return sorted(
        row for label, rows in groups.items() for row in shuffled(rows, seed, "shots", label)[:shots]
    )


def fraction(labels: Sequence[int], share: float, seed: int) -> Indices:
    """Draw about `share` of each class, at least one row; ascending. A share of 1 draws every row."""
    chosen: Indices = []
    for label, rows in by_class(labels).items():
        count = max(round(len(rows) * share), 1)
        chosen += shuffled(rows, seed, "fraction", label)[:count]
    return sorted(chosen)


def counts_per_class(labels: Sequence[int], num_classes: int) -> list[int]:
    """Number of rows of each class 0..C-1."""
    return [int(count) for count in np.bincount(np.asarray(labels, dtype=np.int64), minlength=num_classes)]
