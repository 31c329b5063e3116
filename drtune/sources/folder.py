"""A folder of one's own images: `CLASS/*`, or `train/[val/]test/CLASS/*` with `ood/NAME/CLASS/*`."""

from pathlib import Path

from drtune.base.errors import DataError
from drtune.base.faults import some
from drtune.data.packed import Split
from drtune.sources.layout import LAYOUTS, Layout, layout_of
from drtune.sources.samples import Listing, Parts, Sample, Source, file_sample, printable
from drtune.sources.walk import at_and_above, files_below, natural

TABLES = (".csv", ".tsv", ".parquet")
COPY = (".dvc", "tmp", "exps")
"""Where DVC keeps the copies of a project that `--temp` and `--queue` run in."""


def existing_folder(path: str) -> Path:
    """The folder that `data.source` names, relative to the current one.

    Raises:
        DataError: there is none.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        what = "is a file; unpack it and name the folder" if root.is_file() else "no such folder"
        if root.is_file() and root.suffix.lower() in TABLES:
            what = f"is a table; name its folder {root.parent}, and the table in data.labels"
        raise DataError(f"data.source {path!r}: {what}; {LAYOUTS}{copy_hint()}")
    return root


def copy_hint() -> str:
    """What to know where the project is a copy that DVC made."""
    here = Path.cwd().parts
    if any(here[at : at + 3] == COPY for at in range(len(here))):
        return (
            ". This is a copy of the project that DVC made, and holds only what git or DVC tracks: give an "
            "absolute path, or `dvc add` the folder"
        )
    return ""


def table_hint(root: Path) -> str:
    """Which files of a folder may be its table of labels."""
    tables = sorted(entry.name for entry in root.iterdir() if entry.suffix.lower() in TABLES)
    return (
        f". If labels stand in a table there, say so: data.labels: {' or '.join(tables[:3])}"
        if tables
        else ""
    )


def folder_source(path: str) -> Source:
    """Read a user's folder of images; nothing is decoded here.

    Args:
        path: the folder; relative to the current folder.

    Raises:
        DataError: no such folder, no class folders, or a layout that cannot be understood.
    """
    root = existing_folder(path)
    passed: list[Path] = []
    try:
        layout = layout_of(root)
        classes, parts = listed(root, root, layout, passed)
    except DataError as fault:
        raise DataError(f"{fault}{table_hint(root)}") from None
    return Source(
        name=root.resolve().name,
        title=root.resolve().name,
        classes=tuple(classes),
        parts=parts,
        origin="a folder of images",
        licence="unknown",
        split=layout.parts or "the folder has no split",
        warnings=(*layout.warnings, *passed_over(root, layout.beside, passed), *look_alikes(classes)),
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
    return listed(root, base, layout_of(root), [])


def listed(root: Path, base: Path, layout: Layout, passed: list[Path]) -> Listing:
    """The classes and images of a layout; `passed` takes what is passed over below the class folders."""
    classes = natural({place.name for place in layout.places})
    if not classes:
        raise DataError(f"data.source '{root}': holds no class folders; {LAYOUTS}{copy_hint()}")
    labels = {name: label for label, name in enumerate(classes)}
    above = at_and_above(root)
    parts: Parts = {}
    for place in layout.places:
        rows = parts.setdefault(place.part, [])
        rows += [
            file_sample(path, base, labels[place.name]) for path in files_below(place.folder, above, passed)
        ]
    ordered = [*Split, *sorted(name for name in parts if name not in [*Split])]
    return classes, {name: in_order(parts[name]) for name in map(str, ordered) if name in parts}


def in_order(rows: list[Sample]) -> list[Sample]:
    """Samples sorted by id: folders have no order of their own."""
    return sorted(rows, key=lambda row: row.id)


def check_files(root: Path) -> None:
    """Refuse links that lead nowhere, at which DVC stops, and pipes, at which it waits for ever.

    Raises:
        DataError: naming them.
    """
    hidden: list[Path] = []
    files = files_below(root, frozenset(root.resolve().parents), hidden)
    if odd := [path for path in (*files, *hidden) if not path.is_file() and not path.is_dir()]:
        names = some((printable(path.relative_to(root).as_posix()) for path in odd), 20)
        raise DataError(
            f"data.source '{root}': links that lead nowhere, pipes or devices, at which DVC stops or hangs: "
            f"{names}; remove them"
        )


def passed_over(root: Path, beside: list[Path], passed: list[Path]) -> list[str]:
    """Say what was not read: images beside the class folders, names with a dot, links that lead back."""
    warnings = []
    for found, what in (
        (beside, "images that lie beside the class folders"),
        (passed, "names that begin with a dot, and links that lead back"),
    ):
        if found:
            names = some(printable(path.relative_to(root).as_posix()) for path in found)
            warnings.append(f"passed over: {len(found)} {what}: {names}")
    return warnings


def look_alikes(classes: list[str]) -> list[str]:
    """Say which classes differ by case or outer spaces alone, because a file system may merge them."""
    seen: dict[str, str] = {}
    pairs = []
    for name in classes:
        first = seen.setdefault(name.strip().casefold(), name)
        if first != name:
            pairs.append(f"{first!r} and {name!r}")
    return (
        [f"classes that differ by case or spaces alone, each its own class: {some(pairs)}"] if pairs else []
    )
