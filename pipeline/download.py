"""Stage 1: read or fetch the images, check every one, pack them into Arrow files."""

from drtune.base.report import Report
from drtune.base.settings import Params
from drtune.sources.ingest import ingest
from drtune.sources.settings import DataSettings
from pipeline import paths


def main(params: Params, report: Report) -> None:
    """Write `data/dataset`."""
    settings = params[DataSettings]
    report.log_params({"data": settings.model_dump()})
    fetched, checked = report.progress("fetching", "MB", 1e-6), report.progress("checking images", "images")
    with fetched as fetching, checked as checking:

        def on_file(name: str, done: int, total: int) -> None:
            fetching(done, total, f"fetching {name}")

        card = ingest(settings, paths.DATASET, report.downloads, checking, on_file)
    report.log_metrics({f"images_{name}": count for name, count in card.counts.items()})
    report.log_artifact(paths.DATASET / "dataset.json")
    counts = ", ".join(f"{name} {count:,}" for name, count in card.counts.items())
    report.say(f"{card.title}: {len(card.classes)} classes; images: {counts}")
    for warning in card.warnings:
        report.say(f"warning: {warning}")
