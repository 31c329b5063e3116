"""`drtune check`: what would fail later is said now. Nothing is fetched, decoded or written."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drtune.cli.runs import faults

if TYPE_CHECKING:
    from drtune.base.settings import Params


def check(params: Annotated[Path, typer.Argument(help="settings file")] = Path("params.yaml")) -> None:
    """Check settings, images, weights, device and study, all at once. Exit code 2 where there is a fault.

    The folder of images is walked and the weights are fitted; nothing is fetched. Images that are empty or
    have an odd ending are decoded, others are not.
    """
    from drtune.base.errors import ConfigError
    from drtune.base.faults import render
    from drtune.params import load, missing_paths

    with faults():
        settings = load(params)
        missing = missing_paths(settings)
        texts = [render(params.name, missing)] if missing else []
        names = {name for name, _ in missing}
        images = None if "data.source" in names else tried(texts, look_at_images, settings)
        backbone = None if "backbone.weights" in names else tried(texts, look_at_weights, settings)
        tried(texts, look_at_training, settings, images, backbone)
        tried(texts, look_at_study, settings)
        if texts:
            raise ConfigError("\n".join(texts))
    typer.echo(f"{params}: no faults")


def tried(texts: list[str], look: Callable[..., Any], *about: Any) -> Any:
    """What a look returns; the fault that it finds goes to `texts`."""
    from drtune.base.errors import DRTuneError

    try:
        return look(*about)
    except DRTuneError as fault:
        texts.append(str(fault))
    return None


def look_at_images(params: "Params") -> int | None:
    """List the images as the first stage will; the number left to train on, None for archives."""
    from drtune.base.yaml import ENDINGS
    from drtune.data.packed import Split
    from drtune.sources.checks import check_images
    from drtune.sources.folder import check_files
    from drtune.sources.ingest import divide, prepared
    from drtune.sources.record import read_record
    from drtune.sources.settings import DataSettings

    settings = params[DataSettings]
    record = Path(settings.source)
    if record.suffix in ENDINGS and record.is_file() and read_record(record).files:
        return None  # they are checked when they are fetched
    if record.is_dir():
        check_files(record)
    source = prepared(settings, Path())
    if record.is_dir() and settings.on_bad_image == "error":
        rows = [row for part in source.parts.values() for row in part if doubtful(record / row.id)]
        check_images(source.title, {Split.TRAIN: rows}, settings, None)
    for warning in source.warnings:
        typer.echo(f"warning: {warning}")
    return len(divide(source.parts, settings, source, {}).parts[Split.TRAIN])


def doubtful(path: Path) -> bool:
    """Whether a file may be no image: it is empty, or has another ending."""
    from drtune.sources.walk import is_picture

    return not is_picture(path.name) or (path.is_file() and path.stat().st_size == 0)


def look_at_weights(params: "Params") -> Any:
    """Build the encoder and fit its weights; weights that timm publishes are not fetched."""
    from drtune.backbones.recipe import read_recipe
    from drtune.backbones.settings import BackboneSettings
    from drtune.backbones.zoo import build_backbone, check_name

    settings = params[BackboneSettings]
    recipe = read_recipe(settings.weights)
    if recipe is not None and recipe.weights == "timm":
        check_name(settings.name)
        return None
    return build_backbone(settings)


def look_at_training(params: "Params", images: int | None, backbone: Any) -> None:
    """Ask for device and precision, and whether batches and memory are large enough."""
    from drtune.base.device import pick_device
    from drtune.base.runtime import RuntimeSettings
    from drtune.training.contract import load_method
    from drtune.training.fit import refuse_lone_images
    from drtune.training.hardware import pick_precision, refuse_too_large
    from drtune.training.settings import TrainSettings

    settings = params[TrainSettings]
    device = pick_device(params[RuntimeSettings].device)
    pick_precision(settings.precision, device)
    if backbone is None or load_method(settings.method).trains != "all":
        return
    refuse_too_large(backbone.encoder, settings, device)
    if images is not None:
        refuse_lone_images(settings, backbone.encoder, images)


def look_at_study(params: "Params") -> None:
    """Parse the study, where there is one, with every end of its space."""
    from drtune.studies.space import read_study

    if "study" in params.raw:
        read_study(params)
