"""What a training leaves: the model of the epoch that is kept, and its history."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drtune.backbones.model_file import save_model
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
    train, backbone = params[TrainSettings], fitted.backbone.settings
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
        write_json(fresh / HISTORY, alike(fitted.progress.history))


def alike(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records with the same keys in each, as DVC's plots want them; None is what the start has not."""
    keys = dict.fromkeys(key for record in history for key in record)
    return [{key: record.get(key) for key in keys} for record in history]


def validation_of(fitted: Fitted) -> dict[str, float]:
    """The numbers one may choose by: of the kept epoch, on the validation split.

    Returns:
        `val_accuracy`, its standard error `val_accuracy_se`, `val_loss` (nats) and `best_epoch`.
    """
    best = fitted.progress.best
    scores = {name: best[name] for name in ("val_accuracy", "val_accuracy_se", "val_loss")}
    return scores | {"best_epoch": fitted.progress.best_epoch}
