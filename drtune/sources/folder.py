"""A folder of one's own images: `CLASS/*`, or `train/[val/]test/CLASS/*` with `ood/NAME/CLASS/*`."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from drtune.base.errors import DataError
from drtune.base.faults import plain_name
from drtune.data.packed import Split
from drtune.sources.samples import Listing, Sample, Source, file_sample

OOD = "ood"
KNOWN = [*Split, OOD]
NOT_MEANT = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""What operating systems leave behind in folders, beside names that begin with a dot."""

LAYOUTS = (
    "expected CLASS/* or train/CLASS/* (with test/CLASS/*, val/CLASS/* and ood/NAME/CLASS/* if you have them)"
)


def folder_source(path: str) -> Source:
    """Read a user's folder of images; nothing is decoded here.

    Args:
        path: the folder; relative to the current folder.

    Raises:
        DataError: no such folder, no class folders, or a layout that cannot be understood.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        what = "is a file; unpack it and name the folder" if root.is_file() else "no such folder"
        raise DataError(f"data.source {path!r}: {what}; {LAYOUTS}")
    classes, parts = list_folder(root, root)
    given = ", ".join(name for name in parts if not name.startswith(OOD))
    return Source(
        name=root.resolve().name,
        title=root.resolve().name,
        classes=tuple(classes),
        parts=parts,
        origin="a folder of images",
        licence="unknown",
        split=f"{given} as given by folders" if is_parted(root) else "the folder has no split",
    )


def list_folder(root: Path, base: Path) -> Listing:
    """List the images of a folder.

    Hidden files, and files that lie outside the class folders, are passed over. Folders inside a class folder
    are walked, symbolic links are followed. Classes are in natural order.

    Args:
        root: the folder.
        base: folder at or above it; ids are paths below this one.

    Raises:
        DataError: no class folders, or a layout that cannot be understood.
    """
    places = part_places(root) if is_parted(root) else {Split.TRAIN.value: root}
    classes = natural({entry.name for place in places.values() for entry in folders_in(place)})
    check_names(root, classes)
    check_wrapping(root, classes)
    labels = {name: label for label, name in enumerate(classes)}
    return classes, {name: samples_in(place, base, labels) for name, place in places.items()}


def visible(folder: Path) -> list[Path]:
    """Entries of a folder that are meant, sorted by name.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as fault:
        raise DataError(f"{folder} cannot be listed: {fault.strerror}") from None
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in NOT_MEANT]


def folders_in(folder: Path) -> list[Path]:
    """Visible folders directly in a folder, sorted by name."""
    return [entry for entry in visible(folder) if entry.is_dir()]


def is_parted(root: Path) -> bool:
    """Whether folders stand for train, val and test; a class may be called `train` if it holds images alone.

    Raises:
        DataError: val, test or ood without train.
    """
    tops = {entry.name: entry for entry in folders_in(root)}
    others = [name for name in tops if name not in KNOWN]
    if Split.TRAIN in tops:
        return bool(folders_in(tops[Split.TRAIN])) or not others
    if tops and not others:
        raise DataError(f"data.source '{root}': holds {', '.join(tops)} but no train; {LAYOUTS}")
    return False


def part_places(root: Path) -> dict[str, Path]:
    """The folders of train, val, test and each ood set, by split name.

    Raises:
        DataError: a folder beside train with an unknown meaning.
    """
    tops = {entry.name: entry for entry in folders_in(root)}
    others = [name for name in tops if name not in KNOWN]
    if others:
        raise DataError(
            f"data.source '{root}': holds train and also {', '.join(others)}; beside train only "
            f"{', '.join(KNOWN[1:])} are understood: rename or move the others (valid -> val)"
        )
    places = {split.value: tops[split] for split in Split if split in tops}
    for entry in folders_in(tops[OOD]) if OOD in tops else []:
        if re.search(r"-\d{3}$", entry.name):  # the name of a further shard, see packed.shard_path
            raise DataError(f"{entry}: the name of an ood set must not end in -NNN; rename it")
        places[f"{OOD}/{entry.name}"] = entry
    return places


def natural(names: Iterable[str]) -> list[str]:
    """Sort names with numbers in them by their value: class2 before class10."""
    return sorted(names, key=lambda name: (natural_key(name), name))


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Cut a name into numbers and words; a number comes before a word."""
    runs = re.findall(r"\d+|\D+", name)
    return [(False, int(run), "") if run.isdecimal() else (True, 0, run) for run in runs]


def check_names(root: Path, classes: list[str]) -> None:
    """Refuse a folder without classes, or with class names that no text file can hold."""
    if not classes:
        raise DataError(f"data.source '{root}': holds no class folders; {LAYOUTS}")
    for name in classes:
        if not plain_name(name):
            raise DataError(
                f"class folder {name!r} in {root}: its name is not valid UTF-8 or holds control characters; "
                "rename it"
            )


def check_wrapping(root: Path, classes: list[str]) -> None:
    """Recognise a data set that lies one folder deeper, as archives often unpack."""
    if len(classes) == 1 and (root / classes[0]).is_dir() and len(folders_in(root / classes[0])) > 1:
        raise DataError(
            f"data.source '{root}': holds the one folder {classes[0]}, which holds folders itself; "
            f"did you mean data.source: {root / classes[0]}?"
        )


def samples_in(place: Path, base: Path, labels: dict[str, int]) -> list[Sample]:
    """All files of the class folders in `place`, sorted by id."""
    return sorted(
        (
            file_sample(path, base, labels[folder.name])
            for folder in folders_in(place)
            for path in files_below(folder, frozenset())
        ),
        key=lambda sample: sample.id,
    )


def files_below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Visible files at any depth; a link that leads back to a folder above it is not entered."""
    here = folder.resolve()
    if here in above:
        return
    for entry in visible(folder):
        if entry.is_dir():
            yield from files_below(entry, above | {here})
        else:
            yield entry
