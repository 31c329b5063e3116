"""`drtune data`: a page of what will be read, before any training."""

from pathlib import Path
from typing import Annotated

import typer

from drtune.cli.runs import faults, say


def data(
    params: Annotated[Path, typer.Argument(help="settings file")] = Path("params.yaml"),
    out: Annotated[Path, typer.Option("--out", help="file to write")] = Path("data/report.html"),
) -> None:
    """Show what is in the images: a page of classes, splits, sizes, faults, warnings, samples.

    Exit code 1 where a file cannot be used and data.on_bad_image is error.
    """
    from drtune.base.files import replacing
    from drtune.cli.page import data_page, left_out
    from drtune.params import load
    from drtune.runs.console import Bar
    from drtune.runs.runner import downloads_of
    from drtune.runs.stage_key import store_root
    from drtune.sources.ingest import describe, survey
    from drtune.sources.settings import DataSettings

    with faults():
        settings = load(params)[DataSettings]
        with Bar("fetching", "MB", 1e-6) as fetching, Bar("checking images", "images") as checking:
            found = survey(
                settings.model_copy(update={"on_bad_image": "skip"}),
                downloads_of(store_root()),
                checking,
                lambda name, done, total: fetching(done, total, f"fetching {name}"),
            )
        card, root = describe(settings, found, {}), Path(settings.source).expanduser()
        read = (row.id for rows in found.source.parts.values() for row in rows)
        left = left_out(root, read) if root.is_dir() else {}
        with replacing(out) as fresh:
            fresh.write_text(data_page(settings, found, card, left), encoding="utf-8", errors="replace")
    counts = ", ".join(f"{name} {count:,}" for name, count in card.counts.items())
    say(f"{card.title}: {len(card.classes)} classes; images: {counts}")
    for warning in card.warnings:
        say(f"warning: {warning}")
    say(f"page: {out}")
    if card.skipped and settings.on_bad_image == "error":
        say("`dvc repro` will stop at the files that cannot be used; the page names them", err=True)
        raise typer.Exit(1)
