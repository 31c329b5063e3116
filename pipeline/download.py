"""Stage 1: read or fetch the images, check every one, pack them into Arrow files."""

from drtune.runs.console import Bar
from drtune.runs.runner import Stage, run_stage
from drtune.sources.ingest import ingest
from drtune.sources.settings import DataSettings
from pipeline import paths


def main(stage: Stage) -> None:
    """Write `data/dataset`."""
    settings = stage.params[DataSettings]
    stage.run.log_params({"data": settings.model_dump()})
    with Bar("fetching", "MB", scale=1e-6) as fetching, Bar("checking images", "images") as checking:

        def on_file(name: str, done: int, total: int) -> None:
            fetching.label = f"fetching {name}"
            fetching(done, total)

        card = ingest(settings, paths.DATASET, paths.downloads(), checking, on_file)
    stage.run.log_metrics({f"images_{name}": count for name, count in card.counts.items()})
    stage.run.log_artifact(paths.DATASET / "dataset.json")
    counts = ", ".join(f"{name} {count:,}" for name, count in card.counts.items())
    print(f"{card.title}: {len(card.classes)} classes; images: {counts}")
    for warning in card.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    run_stage("download", main)
