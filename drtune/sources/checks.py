"""Checks of a whole source before anything is written: its classes, then every image once."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from drtune.base.errors import DataError
from drtune.base.faults import how_many
from drtune.data.card import Skipped
from drtune.data.images import Examination, examine
from drtune.data.packed import Split
from drtune.data.settings import Reading
from drtune.sources.samples import Sample, is_text, not_there, printable
from drtune.sources.settings import DataSettings
from drtune.sources.splits import counts_per_class

Progress = Callable[[int, int], None]
"""(images examined, images in all)"""

SHOWN = 20


class Finding(NamedTuple):
    """What one image has shown, and the sha256 of its bytes."""

    seen: Examination
    digest: bytes


class Checked(NamedTuple):
    """The sound images of a source.

    Attributes:
        parts: by part name (`train`, `val`, `test`, `ood/NAME`).
        digests: sha256 of the encoded bytes, by id.
        seen: what each has shown, by id.
        skipped: the others, in order.
    """

    parts: dict[str, list[Sample]]
    digests: dict[str, bytes]
    seen: dict[str, Examination]
    skipped: tuple[Skipped, ...]

    def counts(self, attribute: str) -> dict[str, int]:
        """Number of sound images per `mode` or `profile`, by name; those without are not counted."""
        values = (str(getattr(found, attribute)) for found in self.seen.values())
        return dict(sorted(Counter(filter(None, values)).items()))


def listed(faults: Sequence[str]) -> str:
    """At most 20 lines, then how many more there are."""
    more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return "\n".join(f"  {line}" for line in [*faults[:SHOWN], *more])


def check_classes(
    name: str, classes: Sequence[str], parts: Mapping[str, Sequence[Sample]], skipped: int = 0
) -> None:
    """Refuse a source that cannot be trained on and evaluated class by class.

    Args:
        name: of the source, for the message.
        classes: names in label order.
        parts: by part name; val and test that are missing will be cut from train.
        skipped: number of images left out before, for the message.

    Raises:
        DataError: listing every fault.
    """
    counts = {
        part: counts_per_class([row.label for row in rows], len(classes)) for part, rows in parts.items()
    }
    faults = [f"only one class ({classes[0]}); at least two are needed"] if len(classes) == 1 else []
    faults += [f"{part}: holds no images" for part, rows in parts.items() if not rows]
    for label, class_name in enumerate(classes):
        faults += class_faults(class_name, {part: count[label] for part, count in counts.items()})
    if faults:
        after = f" after skipping {skipped} bad images" if skipped else ""
        remedy = "\nadd images, or remove the class from every part" if len(classes) > 1 else ""
        raise DataError(f"{name}: {how_many(faults)} in its classes{after}\n{listed(faults)}{remedy}")


def class_faults(name: str, counts: Mapping[str, int]) -> list[str]:
    """Faults of one class, from its number of images in each part."""
    train = counts[Split.TRAIN]
    if train == 0:
        elsewhere = [f"{count} in {part}" for part, count in counts.items() if count]
        return [f"{name}: no images" + (f" in train, but {', '.join(elsewhere)}" if elsewhere else "")]
    faults = [
        f"{name}: no images in {part}, but {train} in train"
        for part in (Split.VAL, Split.TEST)
        if counts.get(part) == 0
    ]
    cuts = [split for split in (Split.VAL, Split.TEST) if split not in counts]
    if train < 1 + len(cuts):
        images = "1 image" if train == 1 else f"{train} images"
        parts = ", ".join([Split.TRAIN, *cuts])
        faults.append(f"{name}: {images}; at least {1 + len(cuts)} are needed, one for each of {parts}")
    return faults


def check_images(
    name: str,
    parts: Mapping[str, Sequence[Sample]],
    settings: DataSettings,
    progress: Progress | None,
) -> Checked:
    """Decode every image once; refuse or leave out those that cannot be used.

    Raises:
        DataError: bad images, each with its reason, unless they are to be skipped.
    """
    samples = [row for rows in parts.values() for row in rows]
    if twice := [name for name, count in Counter(row.id for row in samples).items() if count > 1]:
        raise DataError(f"{name}: two images are called {printable(twice[0])}; rename one")
    findings = examine_all(samples, settings, progress)
    bad = [Skipped(id=printable(key), reason=f.seen.problem) for key, f in findings.items() if f.seen.problem]
    if settings.on_bad_image == "error" and bad:
        what = "image that cannot be used" if len(bad) == 1 else "images that cannot be used"
        raise DataError(
            f"{name}: {len(bad)} {what}\n{listed([f'{item.id}: {item.reason}' for item in bad])}\n"
            "mend or remove them, or set data.on_bad_image: skip"
        )
    sound = {key: finding for key, finding in findings.items() if finding.seen.problem is None}
    return Checked(
        parts={part: [row for row in rows if row.id in sound] for part, rows in parts.items()},
        digests={key: finding.digest for key, finding in sound.items()},
        seen={key: finding.seen for key, finding in sound.items()},
        skipped=tuple(bad),
    )


def check_there(name: str, parts: Mapping[str, Sequence[Sample]], settings: DataSettings) -> None:
    """Refuse images that a table names and that are not there, before the others are decoded.

    Raises:
        DataError: naming them.
    """
    absent = {part: [row for row in rows if row.load is not_there] for part, rows in parts.items()}
    check_images(name, absent, settings, None)


def examine_all(
    samples: Sequence[Sample], settings: DataSettings, progress: Progress | None
) -> dict[str, Finding]:
    """Examine samples by as many threads as there are processors (Pillow decodes outside the GIL)."""
    findings: dict[str, Finding] = {}
    look = partial(find, reading=settings.reading, most_pixels=int(settings.max_megapixels * 1e6))
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        for done, (row, finding) in enumerate(zip(samples, pool.map(look, samples), strict=True), start=1):
            findings[row.id] = finding
            if progress is not None:
                progress(done, len(samples))
    return findings


def find(sample: Sample, reading: Reading, most_pixels: int) -> Finding:
    """Read and examine one sample."""
    if not is_text(sample.id):
        return Finding(Examination("its name is not valid UTF-8; rename it", ""), b"")
    try:
        encoded = sample.load()
    except OSError as fault:
        return Finding(Examination(f"cannot be read: {fault.strerror or fault}", ""), b"")
    return Finding(examine(encoded, reading, most_pixels), hashlib.sha256(encoded).digest())
