"""What a training leaves: its settings and result in the run, its model on the disk."""

from pathlib import Path

from drtune.backbones.model_file import save_model
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import completed
from drtune.base.files import replacing, write_json
from drtune.base.settings import Params
from drtune.data.settings import AugmentSettings
from drtune.runs.run import StageRun
from drtune.training.fit import Fitted
from drtune.training.settings import Monitor, TrainSettings
from pipeline import paths

SELECTED_ON: dict[Monitor, str] = {
    "accuracy_1se": "validation accuracy, the latest within one standard error of the best",
    "accuracy": "validation accuracy",
    "loss": "validation loss",
    "last": "nothing: the last",
}


def log_settings(run: StageRun, params: Params) -> None:
    """Say in a run what is trained, and how."""
    method = params[TrainSettings].method
    run.log_params(
        {
            "train": params[TrainSettings].model_dump(),
            "methods": {method: params.method(method).model_dump()},
            "backbone": completed(params[BackboneSettings]).model_dump(),
            "augment": params[AugmentSettings].model_dump(),
        }
    )


def save(fitted: Fitted, params: Params, models: Path) -> None:
    """Write `model.safetensors`, `model.json` and `history.json` to a folder, which appears at once."""
    train, backbone = params[TrainSettings], completed(params[BackboneSettings])
    about = {
        "method": train.method,
        "settings": params.method(train.method).model_dump(),
        "train": train.model_dump(),
        "best_epoch": fitted.progress.best_epoch,
        "selected_on": SELECTED_ON[train.monitor],
    }
    with replacing(models) as fresh:
        fresh.mkdir()
        save_model(fresh, fitted.model, backbone, fitted.backbone.spec, list(fitted.card.classes), about)
        write_json(fresh / paths.HISTORY.name, fitted.progress.history)


def log_result(run: StageRun, fitted: Fitted, models: Path) -> None:
    """Say in a run which epoch was kept, and attach the small files."""
    progress = fitted.progress
    found = {"best_epoch": progress.best_epoch, "best_val_accuracy": progress.best["val_accuracy"]}
    run.log_metrics(found, progress.step)
    run.log_artifact(models / paths.HISTORY.name)
    run.log_artifact(models / "model.json")
