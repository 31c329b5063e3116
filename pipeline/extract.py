"""Stage 2: run the frozen pretrained backbone over the training images and keep its features in a bank."""

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.banks.extract import bank_identity, extract_bank, training_views
from drtune.banks.settings import ExtractSettings
from drtune.base.device import pick_device
from drtune.data.card import read_card
from drtune.data.packed import Split, open_split
from drtune.data.settings import AugmentSettings
from drtune.runs.console import Bar
from drtune.runs.runner import Stage, run_stage
from pipeline import paths


def main(stage: Stage) -> None:
    """Write `data/bank/bank.safetensors`."""
    params = stage.params
    settings, augment = params[ExtractSettings], params[AugmentSettings]
    backbone = build_backbone(params[BackboneSettings])
    stage.run.log_params({"extract": settings.model_dump(), "backbone": backbone.settings.model_dump()})
    header = bank_identity(backbone, read_card(paths.DATASET), settings, augment)
    train = open_split(paths.DATASET, Split.TRAIN)
    with Bar(f"extract {backbone.settings.name}", "images") as bar:
        bar(0, header.views * len(train))
        speed = extract_bank(
            paths.BANK,
            backbone.encoder,
            training_views(train, backbone.spec, settings, augment),
            header,
            train.labels,
            train.ids,
            backbone.feature_dim,
            pick_device(settings.device),
            bar,
        )
    stage.run.log_metrics({"images_per_second": speed, "rows": len(train), "views": header.views})
    views = "1 view" if header.views == 1 else f"{header.views} views"
    shape = f"{len(train)} images x {backbone.feature_dim} features, {views}"
    print(f"bank: {shape}, {settings.dtype}, {speed:,.0f} images/s")


if __name__ == "__main__":
    run_stage("extract", main)
