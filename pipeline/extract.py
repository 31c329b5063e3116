"""Stage 2: run the frozen pretrained backbone over the training images and keep its features in a bank."""

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.banks.extract import bank_identity, extract_bank, training_views
from drtune.banks.settings import ExtractSettings
from drtune.base.device import pick_device
from drtune.base.numeric import set_numeric_state
from drtune.base.report import Report
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params
from drtune.data.card import read_card
from drtune.data.packed import Split, open_split
from drtune.data.settings import AugmentSettings
from pipeline import paths


def main(params: Params, report: Report) -> None:
    """Write `data/bank/bank.safetensors`."""
    settings, augment, runtime = params[ExtractSettings], params[AugmentSettings], params[RuntimeSettings]
    set_numeric_state(settings.seed, runtime.num_threads)
    backbone = build_backbone(params[BackboneSettings])
    report.log_params({"extract": settings.model_dump(), "backbone": backbone.settings.model_dump()})
    header = bank_identity(backbone, read_card(paths.DATASET), settings, augment)
    train = open_split(paths.DATASET, Split.TRAIN)
    with report.progress(f"extract {backbone.settings.name}", "images") as progress:
        progress(0, header.views * len(train))
        speed = extract_bank(
            paths.BANK,
            backbone.encoder,
            training_views(train, backbone.spec, settings, augment, runtime.num_workers),
            header,
            train.labels,
            train.ids,
            backbone.feature_dim,
            pick_device(runtime.device),
            progress,
        )
    report.log_metrics({"images_per_second": speed, "rows": len(train), "views": header.views})
    views = "1 view" if header.views == 1 else f"{header.views} views"
    shape = f"{len(train)} images x {backbone.feature_dim} features, {views}"
    report.say(f"bank: {shape}, {settings.dtype}, {speed:,.0f} images/s")
