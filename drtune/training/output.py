"""What a training leaves: the model of the epoch that is kept, and its history."""

from pathlib import Path

from drtune.backbones.model_file import save_model
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import completed
from drtune.base.files import replacing, write_json
from drtune.base.settings import Params
from drtune.training.fit import Fitted
from drtune.training.hardware import made_on
from drtune.training.settings import Monitor, TrainSettings

HISTORY = "history.json"
SELECTED_ON: dict[Monitor, str] = {
    "accuracy_1se": "validation accuracy, the latest within one standard error of the best",
    "accuracy": "validation accuracy",
    "loss": "validation loss",
    "last": "nothing: the last",
}


def save(fitted: Fitted, params: Params, models: Path) -> None:
    """Write `model.safetensors`, `model.json` and `history.json` to a folder, which appears at once."""
    train, backbone = params[TrainSettings], completed(params[BackboneSettings])
    about = {
        "method": train.method,
        "settings": params.method(train.method).model_dump(),
        "train": train.model_dump(),
        "best_epoch": fitted.progress.best_epoch,
        "selected_on": SELECTED_ON[train.monitor],
        "made_on": made_on(params),
    }
    with replacing(models) as fresh:
        fresh.mkdir()
        card = fitted.card
        save_model(
            fresh, fitted.model, backbone, fitted.backbone.spec, list(card.classes), about, card.reading
        )
        write_json(fresh / HISTORY, fitted.progress.history)


def validation_of(fitted: Fitted) -> dict[str, float]:
    """The numbers one may choose by: of the kept epoch, on the validation split.

    Returns:
        `val_accuracy`, its standard error `val_accuracy_se`, `val_loss` (nats) and `best_epoch`.
    """
    best = fitted.progress.best
    scores = {name: best[name] for name in ("val_accuracy", "val_accuracy_se", "val_loss")}
    return scores | {"best_epoch": fitted.progress.best_epoch}
