"""The page of `drtune data`: what was read, in one HTML file that opens anywhere."""

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from PIL import Image

from drtune.cli.html import Html, bar, captioned, document, paragraph, picture, section, table
from drtune.data.card import DatasetCard
from drtune.data.images import decode_rgb
from drtune.data.packed import Split
from drtune.evaluation.pictures.images import fitted
from drtune.evaluation.pictures.style import BLUE, DPI, new_figure, styled
from drtune.sources.ingest import Survey
from drtune.sources.samples import Sample, one_line, printable
from drtune.sources.settings import DataSettings
from drtune.sources.walk import is_picture

TILE, TILES, TILES_OF_A_CLASS = 96, 240, 8
"""Pixels of a picture of the contact sheet; pictures in all, and of one class, at most."""


def data_page(settings: DataSettings, found: Survey, card: DatasetCard, left: Mapping[str, int]) -> str:
    """The whole page.

    Args:
        settings: of `data`.
        found: what was read.
        card: of the data set, as `download` writes it.
        left: number of files that were not read, by folder.
    """
    parts = [
        paragraph(summary(settings, found, card)),
        *notes(settings, card),
        section("Splits", splits_table(card), paragraph(f"{card.split}.")),
        section("Classes", classes_table(card)),
        section("Files", files_table(settings, found, card), sizes_picture(found)),
    ]
    if card.skipped:
        rows = [(item.id, item.reason) for item in card.skipped]
        parts.append(section("Files that cannot be used", table(("file", "reason"), rows)))
    for where, leaks in (("splits", card.leaks), ("classes", card.conflicts)):
        if leaks.count:
            some = f", the first {len(leaks.examples)}" if leaks.count > len(leaks.examples) else ""
            title = f"Equal images in several {where}: {leaks.count:,}{some}"
            parts.append(section(title, table((), [(line,) for line in leaks.examples])))
    if left:
        parts.append(section("Not read", table(("folder", "files"), sorted(left.items()))))
    parts.append(section("Training images as they are read", contact_sheet(settings, found)))
    values = [(f"data.{key}", json.dumps(value)) for key, value in settings.model_dump().items()]
    parts.append(section("Settings", table((), values)))
    return document(card.title, parts)


def summary(settings: DataSettings, found: Survey, card: DatasetCard) -> str:
    """How many images there are, and where they are from."""
    sound, used = len(found.checked.seen), sum(card.counts.values())
    part = f", {used:,} of them used" if used < sound else ""
    count = f"{sound:,} images in {len(card.classes):,} classes{part}"
    return f"{count}; read from {settings.source} ({card.source}). Licence: {card.licence}."


def notes(settings: DataSettings, card: DatasetCard) -> list[Html]:
    """What a person should know first."""
    lines = list(card.warnings)
    if card.skipped and settings.on_bad_image == "error":
        lines.append("dvc repro will stop at the files that cannot be used: see below, mend or remove them")
    warnings = [paragraph(line, "note warning") for line in lines]
    return warnings or [paragraph("No warnings.", "note good")]


def splits_table(card: DatasetCard) -> Html:
    """Images, classes and, where there are any, groups of each split."""
    groups = card.groups
    heads = [
        "split",
        "images",
        "classes",
        "in the smallest class",
        "in the largest",
        *["groups"] * bool(groups),
    ]
    rows = []
    for part, count in card.counts.items():
        numbers = [number for number in card.per_class[part] if number] or [0]
        row = (part, count, len(numbers), min(numbers), max(numbers))
        rows.append((*row, groups.get(part, 0)) if groups else row)
    return table(heads, rows)


def classes_table(card: DatasetCard) -> Html:
    """Images of each class in each split, with a bar for all of them."""
    totals = [sum(numbers) for numbers in zip(*card.per_class.values(), strict=True)]
    rows = [
        (name, *(numbers[label] for numbers in card.per_class.values()), bar(totals[label] / max(totals)))
        for label, name in enumerate(card.classes)
    ]
    return table(("class", *card.counts, "all"), rows)


def files_table(settings: DataSettings, found: Survey, card: DatasetCard) -> Html:
    """Kinds of pixels, colour profiles, sizes; the files at either end by name."""
    rows = [("pixels as stored", counted(card.modes))]
    if card.profiles:
        what = "applied" if settings.profiles == "srgb" else "ignored"
        rows.append((f"colour profiles, {what}", counted(card.profiles)))
    if spans := [each.span for each in found.checked.seen.values() if each.span]:
        low, high = min(span[0] for span in spans), max(span[1] for span in spans)
        rows.append(("values of deep pixels", f"{low:g} to {high:g}"))
    sizes = {printable(key): each.size for key, each in found.checked.seen.items()}
    widths, heights = zip(*sizes.values(), strict=True)
    rows += [("width", extent(widths)), ("height", extent(heights))]
    by_area = sorted(sizes, key=lambda name: sizes[name][0] * sizes[name][1])
    longest = max(sizes, key=lambda name: max(sizes[name]) / min(sizes[name]))
    for words, name in (("smallest", by_area[0]), ("largest", by_area[-1]), ("longest", longest)):
        rows.append((words, f"{name}: {sizes[name][0]:,} x {sizes[name][1]:,} px"))
    return table((), rows)


def extent(lengths: Sequence[int]) -> str:
    """The smallest, the largest and the middle one."""
    low, high = min(lengths), max(lengths)
    return f"{low:,} px" if low == high else f"{low:,} to {high:,} px, median {median(lengths):,g}"


def counted(numbers: Mapping[str, int]) -> str:
    """Names with how many there are, the most frequent first."""
    return ", ".join(f"{name} ({number:,})" for name, number in Counter(numbers).most_common())


def sizes_picture(found: Survey) -> Html:
    """A dot for each size of image; nothing where all are equal."""
    sizes = Counter(each.size for each in found.checked.seen.values())
    if len(sizes) == 1:
        return Html("")
    stream = io.BytesIO()
    drawn_sizes(sizes).savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return picture(stream.getvalue(), "png", "Width and height of the images", width=550)


@styled
def drawn_sizes(sizes: Mapping[tuple[int, int], int]) -> Figure:
    """Height over width; a dot is the larger, the more images have that size."""
    figure = new_figure(5.5, 3.6)
    axes = figure.add_subplot()
    widths, heights = zip(*sizes, strict=True)
    areas = [12 + 200 * number / sum(sizes.values()) for number in sizes.values()]
    axes.scatter(widths, heights, s=areas, color=BLUE, alpha=0.5, linewidths=0)
    axes.set(xscale="log", yscale="log", xlabel="width, px", ylabel="height, px")
    return figure


def contact_sheet(settings: DataSettings, found: Survey) -> Html:
    """The first training images of each class; of the first classes where there are many."""
    classes = found.source.classes[:TILES]
    by_class: list[list[Sample]] = [[] for _ in found.source.classes]
    for row in found.division.parts[Split.TRAIN]:
        by_class[row.label].append(row)
    each = min(TILES_OF_A_CLASS, TILES // len(classes))
    shown = [
        captioned(name, [tile(row, settings) for row in by_class[label][:each]])
        for label, name in enumerate(classes)
    ]
    hidden = len(found.source.classes) - len(classes)
    return Html("".join([*shown, paragraph(f"… and {hidden:,} more classes")] if hidden else shown))


def tile(row: Sample, settings: DataSettings) -> Html:
    """One small picture."""
    stream = io.BytesIO()
    image = decode_rgb(row.load(), settings.reading)
    Image.fromarray(fitted(image, TILE)).save(stream, "JPEG", quality=85)
    return picture(stream.getvalue(), "jpeg", row.id)


def left_out(root: Path, read: Iterable[str]) -> dict[str, int]:
    """Number of files below a folder that were not read, by the outermost folder that holds nothing else.

    So hidden folders, and those that NAS boxes and desktops keep, are named. Beside what was read only
    pictures count. Links are not entered.

    Args:
        root: the folder.
        read: ids of what was read, paths below it.
    """
    known = set(read)
    useful = {parent for key in known for parent in Path(key).parents}
    found: Counter[str] = Counter()
    for folder, _, files in os.walk(root):
        here = Path(printable(Path(folder).relative_to(root).as_posix()))
        outer = next((place for place in (*reversed(here.parents), here) if place not in useful), None)
        others = [name for name in files if (here / one_line(name)).as_posix() not in known]
        others = others if outer else [name for name in others if is_picture(name)]
        if others:
            found[f"{(outer or here).as_posix()}/"] += len(others)
    return dict(found)
