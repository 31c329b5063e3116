"""Turn a source of images into a packed data set: check everything, cut, write aside, rename."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from drtune.base.errors import DataError
from drtune.base.files import replacing, sha256_of
from drtune.data.card import DatasetCard, write_card
from drtune.data.packed import Row, Split, write_split
from drtune.sources import splits
from drtune.sources.archives import DISK_FULL, Fetching
from drtune.sources.checks import SHOWN, Checked, Progress, check_classes, check_images, check_there
from drtune.sources.columns import Naming
from drtune.sources.findings import find_conflicts, find_leaks, warnings_of
from drtune.sources.groups import cut_groups, grouped, groups_in, together
from drtune.sources.samples import Sample, Source
from drtune.sources.settings import DataSettings
from drtune.sources.sources import read_source


class Survey(NamedTuple):
    """What was read, before anything is written.

    Attributes:
        source: as it was listed.
        checked: its sound images, and the others.
        division: the parts as they will be written.
    """

    source: Source
    checked: Checked
    division: "Division"


class Division(NamedTuple):
    """The parts as they will be written.

    Attributes:
        parts: by part name: train, val, test, then `ood/NAME`.
        how: how they were made, in words.
        warnings: what a person should know.
    """

    parts: dict[str, list[Sample]]
    how: str
    warnings: list[str]


def ingest(
    settings: DataSettings,
    out: Path,
    downloads: Path,
    progress: Progress | None = None,
    fetching: Fetching | None = None,
) -> DatasetCard:
    """Write `out/{train,val,test}.arrow`, `out/ood/*.arrow` and `out/dataset.json`.

    Equal images and settings give equal bytes. `out` is replaced as a whole, or left as it was.

    Args:
        settings: the `data` section.
        out: folder of the packed data set.
        downloads: where archives are kept, one folder a data set.
        progress: called with (images examined, images in all).
        fetching: called with (file name, bytes so far, bytes in all or 0) while an archive is downloaded.

    Raises:
        DataError: anything wrong with the source, or a full disk.
    """
    try:
        found = survey(settings, downloads, progress, fetching)
        with replacing(out) as fresh:
            return write(fresh, settings, found)
    except OSError as fault:
        if fault.errno in DISK_FULL:
            raise DataError(
                f"no space left on the disk of {out} or {downloads}; nothing half-written is left: "
                "make room and run again"
            ) from None
        raise


def survey(
    settings: DataSettings,
    downloads: Path,
    progress: Progress | None = None,
    fetching: Fetching | None = None,
) -> Survey:
    """Read, check and cut a source as `ingest` does; write nothing but fetched archives.

    Raises:
        DataError: anything wrong with the source.
    """
    source = prepared(settings, downloads, fetching)
    checked = check_images(source.title, source.parts, settings, progress)
    if checked.skipped:
        check_classes(source.title, source.classes, checked.parts, len(checked.skipped))
    return Survey(source, checked, divide(checked.parts, settings, source, checked.digests))


def prepared(settings: DataSettings, downloads: Path, fetching: Fetching | None = None) -> Source:
    """List a source, and refuse what can be refused before an image is decoded: classes, groups, cuts.

    Raises:
        ConfigError: a record with faults.
        DataError: saying what is wrong.
    """
    naming = Naming(settings.labels, settings.columns, settings.group)
    source = read_source(settings.source, downloads, fetching, naming)
    check_classes(source.title, source.classes, source.parts)
    check_there(source.title, source.parts, settings)
    source = grouped(source, settings.group)
    divide(source.parts, settings, source, {})
    return source


def divide(
    parts: Mapping[str, list[Sample]], settings: DataSettings, source: Source, digests: Mapping[str, bytes]
) -> Division:
    """Cut test and val from train where the source has none, then thin train by fraction and shots.

    Fractions of what is cut refer to the train images before any cut, class by class. Groups, and images of
    equal bytes, stay together.
    """
    rows = {**parts}
    how = [source.split]
    left = 1.0
    cuts = [(Split.TEST, settings.test_fraction), (Split.VAL, settings.val_fraction)]
    cuts = [(split, share) for split, share in cuts if split not in parts]
    for later, (split, share) in enumerate(cuts, start=1):
        train = rows[Split.TRAIN]
        first, second = cut_groups(
            [row.label for row in train],
            together(train, digests),
            share / left,
            settings.seed,
            purpose=split.value,
            classes=source.classes,
            keep=1 + len(cuts) - later,
            unit="groups" if source.grouped else "different images",
        )
        rows[split], rows[Split.TRAIN] = [train[row] for row in second], [train[row] for row in first]
        left -= share
        whole = f" by whole groups ({source.grouped})" if source.grouped else ""
        how.append(f"{split}: {share:.3g} of each class cut from train{whole} by seed {settings.seed}")
    rows[Split.TRAIN], thinning, warnings = thin(rows[Split.TRAIN], settings, source.classes)
    ordered = {**{split.value: rows[split] for split in Split}, **rows}
    return Division(ordered, "; ".join(how + thinning), warnings)


def thin(
    train: list[Sample], settings: DataSettings, classes: Sequence[str]
) -> tuple[list[Sample], list[str], list[str]]:
    """Keep a fraction of each class of train, then a number of shots.

    Returns:
        The rows kept, how in words, and warnings about classes that have fewer images than asked for.
    """
    how: list[str] = []
    warnings: list[str] = []
    if settings.fraction < 1:
        chosen = splits.fraction([row.label for row in train], settings.fraction, settings.seed)
        train = [train[row] for row in chosen]
        how.append(f"train: {settings.fraction:g} of each class by seed {settings.seed}")
    if settings.shots is not None:
        labels = [row.label for row in train]
        train = [train[row] for row in splits.few_shot(labels, settings.shots, settings.seed)]
        how.append(f"train: {settings.shots} images a class by seed {settings.seed}")
        counts = splits.counts_per_class(labels, len(classes))
        short = [
            f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < settings.shots
        ]
        if short:
            warnings.append(
                f"{len(short)} of {len(classes)} classes have fewer than {settings.shots} train images: "
                + ", ".join(short[:SHOWN] + ["..."] * (len(short) > SHOWN))
            )
    return train, how, warnings


def write(folder: Path, settings: DataSettings, found: Survey) -> DatasetCard:
    """Write every part and the card into a new folder."""
    for part, samples in found.division.parts.items():
        write_split(folder / f"{part}.arrow", encoded_rows(samples, found.checked.digests))
    paths = sorted(folder.rglob("*.arrow"))
    card = describe(settings, found, {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths})
    write_card(folder, card)
    return card


def describe(settings: DataSettings, found: Survey, sha256: Mapping[str, str]) -> DatasetCard:
    """The card of what was read; `sha256` holds the digests of the files written, by name."""
    source, checked, division = found
    labels = {part: [row.label for row in samples] for part, samples in division.parts.items()}
    leaks = find_leaks(division.parts, checked.digests)
    conflicts = find_conflicts(checked.parts, checked.digests)
    return DatasetCard(
        name=source.name,
        title=source.title,
        classes=source.classes,
        counts={part: len(values) for part, values in labels.items()},
        per_class={
            part: tuple(splits.counts_per_class(values, len(source.classes)))
            for part, values in labels.items()
        },
        source=source.origin,
        licence=source.licence,
        split=division.how,
        sha256=dict(sha256),
        modes=checked.counts("mode"),
        skipped=checked.skipped,
        leaks=leaks,
        warnings=(
            *source.warnings,
            *division.warnings,
            *warnings_of(checked, settings, leaks, conflicts),
        ),
        groups=groups_in(division.parts) if source.grouped else {},
        reading=settings.reading,
        profiles=checked.counts("profile"),
        conflicts=conflicts,
    )


def encoded_rows(samples: Sequence[Sample], digests: Mapping[str, bytes]) -> Iterator[Row]:
    """Read samples again for writing.

    Raises:
        DataError: a file is no longer what was examined.
    """
    for sample in samples:
        encoded = sample.load()
        if hashlib.sha256(encoded).digest() != digests[sample.id]:
            raise DataError(f"{sample.id} changed while it was being read; run again")
        yield sample.id, encoded, sample.label
