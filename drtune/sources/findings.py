"""What a person should know of the images that were read: copies, conflicts, dark and many-paged files."""

from collections.abc import Iterable, Mapping, Sequence

from drtune.data.card import Leaks
from drtune.data.images import Examination
from drtune.data.packed import Split
from drtune.sources.checks import Checked
from drtune.sources.samples import Sample
from drtune.sources.settings import DataSettings

EXAMPLES = 5
DARK = 2**15
"""A 16-bit picture whose brightest pixel is below is one of 15 bits or fewer."""


def warnings_of(checked: Checked, settings: DataSettings, leaks: Leaks, conflicts: Leaks) -> list[str]:
    """What a person should know of the images."""
    warnings = []
    if leaks.count:
        warnings.append(f"{leaks.count} images of val or test also stand in train or val, byte for byte")
    if conflicts.count:
        examples = ", ".join(conflicts.examples) + ", ..." * (conflicts.count > EXAMPLES)
        warnings.append(
            f"images that stand in several classes, byte for byte: {conflicts.count} ({examples})"
        )
    if checked.skipped:
        warnings.append(f"files that could not be used and were left out: {len(checked.skipped)}")
    if several := sum(found.frames for found in checked.seen.values()):
        warnings.append(f"files of several frames or pages, of which the first is taken: {several}")
    return warnings + ([] if settings.value_range else dark_images(checked.seen.values()))


def dark_images(seen: Iterable[Examination]) -> list[str]:
    """Say which 16-bit images use so little of their range that few levels are left in 8 bits."""
    tops: dict[str, list[float]] = {"grey": [], "colour": []}
    for found in seen:
        if found.span:
            tops["colour" if found.mode == "RGB" else "grey"].append(found.span[1])
    warnings = []
    for kind, values in tops.items():
        if values and 0 < max(values) < DARK:
            top = int(max(values))
            remedy = f"state data.value_range: [0, {2 ** top.bit_length() - 1}]"
            if kind == "colour":
                remedy = "save them with 8 bits, from black to white"
            warnings.append(
                f"{kind} images of 16 bits: {len(values)}, none brighter than {top} of 65535, which leaves "
                f"{top // 257 + 1} of 256 levels; {remedy}"
            )
    return warnings


def find_leaks(parts: Mapping[str, Sequence[Sample]], digests: Mapping[str, bytes]) -> Leaks:
    """Find images of val in train, and of test in train or val, by their bytes."""
    seen: dict[bytes, str] = {}
    found: list[str] = []
    for part in (Split.TRAIN, Split.VAL, Split.TEST):
        for row in parts[part]:
            if digests[row.id] in seen:
                found.append(f"{row.id} ({part}) = {seen[digests[row.id]]}")
        for row in parts[part]:
            seen.setdefault(digests[row.id], f"{row.id} ({part})")
    return Leaks(count=len(found), examples=tuple(found[:EXAMPLES]))


def find_conflicts(parts: Mapping[str, Sequence[Sample]], digests: Mapping[str, bytes]) -> Leaks:
    """Find images that stand in several classes, by their bytes."""
    first: dict[bytes, Sample] = {}
    found: dict[bytes, str] = {}
    for row in (row for rows in parts.values() for row in rows):
        other = first.setdefault(digests[row.id], row)
        if other.label != row.label:
            found.setdefault(digests[row.id], f"{other.id} = {row.id}")
    return Leaks(count=len(found), examples=tuple(found.values())[:EXAMPLES])
