"""Groups: the images of one patient, video or product, and equal files, stay on one side of a cut."""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from drtune.base.errors import DataError
from drtune.base.faults import some
from drtune.base.seeding import derive
from drtune.data.packed import Split
from drtune.sources import splits
from drtune.sources.checks import listed
from drtune.sources.samples import Parts, Sample, Source, printable
from drtune.sources.splits import Indices, permutation

LEAST = 1e-9
"""Gain that is worth a turn; without it rounding could turn a group to and fro."""


def grouped(source: Source, group: str | None) -> Source:
    """A source with the groups that `data.group` names, checked against the parts that the source gives.

    Args:
        source: has groups already where a table has a column of them.
        group: `data.group`; what is no column is a regular expression over ids, the paths of files. The group
            is what parentheses in it find, the first that find something, else what all of it does.

    Raises:
        DataError: an expression that is none or that does not match every image, a group on both sides.
    """
    if group is not None and not source.grouped:
        parts = {part: by_expression(rows, group) for part, rows in source.parts.items()}
        source = replace(source, parts=parts, grouped=f"data.group {group}")
    rows = [row for part in source.parts.values() for row in part]
    if source.grouped and len({row.group for row in rows}) == len(rows):
        alone = f"{source.grouped}: every image is a group of its own, so nothing is kept together"
        source = replace(source, warnings=(*source.warnings, alone))
    check_sides(source)
    return source


def by_expression(rows: Sequence[Sample], group: str) -> list[Sample]:
    """Samples with the group that an expression finds in each id."""
    try:
        expression = re.compile(group)
    except re.error as fault:
        raise DataError(f"data.group: {group!r} is no column, and no regular expression: {fault}") from None
    found = [expression.search(row.id) for row in rows]
    names = [next(filter(None, match.groups()), match[0]) if match else "" for match in found]
    if missed := [printable(row.id) for row, name in zip(rows, names, strict=True) if not name]:
        raise DataError(
            f"data.group: {group!r} is no column of a labels.csv, and as a regular expression finds nothing "
            f"in {some(missed)}; every image needs a group: '(patient\\d+)', say"
        )
    return [row._replace(group=name) for row, name in zip(rows, names, strict=True)]


def check_sides(source: Source) -> None:
    """Refuse groups of which the source itself gives images to two of train, val and test.

    Raises:
        DataError: naming them.
    """
    sides: dict[str, list[str]] = defaultdict(list)
    for part in [part for part in Split if part in source.parts]:
        for name in {row.group for row in source.parts[part]} - {""}:
            sides[name].append(part)
    if torn := [f"{printable(name)}: {', '.join(parts)}" for name, parts in sides.items() if len(parts) > 1]:
        raise DataError(
            f"{source.title}: {len(torn)} groups ({source.grouped}) stand in two parts\n"
            f"{listed(sorted(torn))}\n"
            "mend the split, or let it be cut anew: no column split, folders of classes alone"
        )


def groups_in(parts: Parts) -> dict[str, int]:
    """Number of groups in each part."""
    return {part: len({row.group for row in rows}) for part, rows in parts.items()}


def together(rows: Sequence[Sample], digests: Mapping[str, bytes]) -> list[Hashable]:
    """For each row something that it has in common with all rows of its group and all of equal bytes."""
    leader: dict[Hashable, Hashable] = {}

    def lead(key: Hashable) -> Hashable:
        while (above := leader.setdefault(key, key)) != key:
            leader[key] = key = leader[above]
        return key

    for row in rows:
        leader[lead(digests.get(row.id, row.id))] = lead((row.group,) if row.group else row.id)
    return [lead(row.id if not row.group else (row.group,)) for row in rows]


class Cut:
    """Groups, and those of them that are taken for the second part.

    Args:
        counts: images of each class in each group.
        fraction: share of each class wanted in the second part.
        keep: groups of each class that stay in the first part.
    """

    def __init__(self, counts: Sequence[Counter[int]], fraction: float, keep: int) -> None:
        self.counts, self.keep = counts, keep
        self.total = sum(counts, Counter[int]())
        self.wanted = {label: number * fraction for label, number in self.total.items()}
        self.left = Counter(label for count in counts for label in count)
        self.have: Counter[int] = Counter()
        self.taken: set[int] = set()

    def may_turn(self, group: int) -> bool:
        """Whether a group may change sides: every class stays on both."""
        if group in self.taken:
            return all(self.have[label] > number for label, number in self.counts[group].items())
        return all(self.left[label] > self.keep for label in self.counts[group])

    def gain(self, group: int) -> float:
        """By how much the shares come nearer to what is wanted (sum of squares) if a group changes sides."""
        sign = -1 if group in self.taken else 1
        return sum(
            number * (2 * sign * (self.wanted[label] - self.have[label]) - number) / self.total[label] ** 2
            for label, number in self.counts[group].items()
        )

    def turn(self, group: int) -> None:
        """Move a group to the other side."""
        sign = -1 if group in self.taken else 1
        for label, number in self.counts[group].items():
            self.have[label] += sign * number
            self.left[label] -= sign
        self.taken ^= {group}

    def improve(self, order: Sequence[int]) -> bool:
        """Turn each group that brings a gain; whether there was one."""
        before = {*self.taken}
        for group in order:
            if self.may_turn(group) and self.gain(group) > LEAST:
                self.turn(group)
        return self.taken != before


def cut_groups(
    labels: Sequence[int],
    groups: Sequence[Hashable],
    fraction: float,
    seed: int,
    *,
    purpose: str,
    classes: Sequence[str],
    keep: int = 1,
    unit: str = "groups",
) -> tuple[Indices, Indices]:
    """Cut rows in two by whole groups: about `fraction` of each class; `splits.cut` where each is a row.

    Groups change sides, in an order of the seed, while that brings the shares of their classes nearer to
    `fraction`; a class that has come off empty gets its smallest group. scikit-learn's StratifiedGroupKFold
    makes equal folds only, may leave a class out, and draws nothing but ties.

    Args:
        labels: [N] class indices.
        groups: [N] what stays together.
        fraction: share of the second part.
        seed: equal seeds give equal cuts.
        purpose: name of the second part.
        classes: class names by label, for the message.
        keep: groups of each class that must stay in the first part.
        unit: what a group is, for the message.

    Returns:
        Two ascending lists of rows; each holds every class at least once.

    Raises:
        DataError: classes that cannot be on both sides.
    """
    members: dict[Hashable, Indices] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    if len(members) == len(labels):
        return splits.cut(labels, fraction, seed, purpose=purpose, classes=classes, keep=keep)
    rows = list(members.values())
    cut = Cut([Counter(labels[row] for row in group) for group in rows], fraction, keep)
    if small := [f"{classes[c]} ({number})" for c, number in sorted(cut.left.items()) if number <= keep]:
        needs = f"cutting {purpose} needs at least {keep + 1} {unit} in every class"
        raise DataError(f"{needs}; too few in: {some(small, 20)}")
    order = permutation(len(rows), derive(seed, purpose, "groups"))
    while cut.improve(order):
        pass
    for label in sorted(cut.total):
        if cut.have[label] == 0:
            cut.turn(smallest(cut, order, label, f"cutting {purpose} by groups: {classes[label]}"))
    second = {row for group in cut.taken for row in rows[group]}
    return [row for row in range(len(labels)) if row not in second], sorted(second)


def smallest(cut: Cut, order: Sequence[int], label: int, what: str) -> int:
    """The smallest group of a class that may go to the second part.

    Raises:
        DataError: there is none.
    """
    fit = [group for group in order if label in cut.counts[group] and cut.may_turn(group)]
    if not fit:
        raise DataError(
            f"{what} stands only in groups that other classes cannot spare, so it cannot be on both sides; "
            "make groups smaller, or give the split yourself"
        )
    return min(fit, key=lambda group: cut.counts[group].total())
