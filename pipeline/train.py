"""Stage 3: train one method; the epoch is chosen on validation."""

from pathlib import Path

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import completed
from drtune.base.files import write_json
from drtune.base.report import Report
from drtune.base.settings import Params
from drtune.data.settings import AugmentSettings
from drtune.training.fit import Fitted
from drtune.training.hardware import made_on
from drtune.training.output import save, validation_of
from drtune.training.reporting import fit_and_report, replacements
from drtune.training.settings import TrainSettings
from pipeline import paths


def main(params: Params, report: Report) -> None:
    """Write `models/` and `metrics/validation.json`."""
    log_settings(params, report)
    if line := replacements(params):
        report.say(line)
    fitted = fit_and_report(params, paths.DATASET, paths.BANK, report)
    write(fitted, params, report)
    kept, best = fitted.progress.best_epoch, fitted.progress.best
    epoch = f"kept epoch {kept}" + ("" if kept else " (the start, untrained)")
    report.say(f"{params[TrainSettings].method}: {epoch}, validation accuracy {best['val_accuracy']:.4f}")


def log_settings(params: Params, report: Report) -> None:
    """Say what is trained, and how."""
    train = params[TrainSettings]
    own = params.method(train.method).model_dump()
    report.log_params(
        {
            "train": train.model_dump(),
            "methods": {train.method: own | ({"train": params.replaced} if params.replaced else {})},
            "backbone": completed(params[BackboneSettings]).model_dump(),
            "augment": params[AugmentSettings].model_dump(),
            "made_on": made_on(params),
        }
    )


def write(fitted: Fitted, params: Params, report: Report, folder: Path = Path()) -> None:
    """Write what a training leaves to a folder like the project's."""
    save(fitted, params, folder / paths.MODEL)
    write_json(folder / paths.VALIDATION, validation_of(fitted))
    progress = fitted.progress
    kept = {"best_epoch": progress.best_epoch, "best_val_accuracy": progress.best["val_accuracy"]}
    report.log_metrics(kept, progress.step)
    for path in (paths.HISTORY, paths.MODEL / "model.json"):
        report.log_artifact(folder / path)
