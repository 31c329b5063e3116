"""Stage 2: run the frozen pretrained backbone over the training images and keep its features in a bank."""

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.banks.bank import read_layout
from drtune.banks.extract import extract_train
from drtune.banks.settings import ExtractSettings
from drtune.base.numeric import set_numeric_state
from drtune.base.report import Report
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params
from pipeline import paths


def main(params: Params, report: Report) -> None:
    """Write `data/bank/bank.safetensors`."""
    settings = params[ExtractSettings]
    set_numeric_state(settings.seed, params[RuntimeSettings].num_threads)
    backbone = build_backbone(params[BackboneSettings])
    report.log_params({"extract": settings.model_dump(), "backbone": backbone.settings.model_dump()})
    if backbone.taken:
        report.say(backbone.taken)
    with report.progress(f"extract {backbone.settings.name}", "images") as progress:
        speed = extract_train(paths.BANK, paths.DATASET, backbone, params, progress)
    views, rows, dim = read_layout(paths.BANK).shape
    report.log_metrics({"images_per_second": speed, "rows": rows, "views": views})
    shape = f"{rows} images x {dim} features, {views} view{'s' * (views > 1)}"
    report.say(f"bank: {shape}, {settings.dtype}, {speed:,.0f} images/s")
