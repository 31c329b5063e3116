"""Stage 3: train one method; the epoch is chosen on validation."""

from collections.abc import Mapping
from functools import partial

from drtune.backbones.model_file import save_model
from drtune.backbones.zoo import completed
from drtune.config import AugmentSettings, BackboneSettings, TrainSettings
from drtune.data.card import read_card
from drtune.data.loaders import steps_per_epoch
from drtune.data.packed import Split
from drtune.files import replacing, write_json
from drtune.methods import SETTINGS
from drtune.training.fit import fit
from drtune.training.loop import Hooks
from pipeline import paths
from pipeline.console import Bar, in_words
from pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Write `models/model.safetensors`, `models/model.json` and `models/history.json`."""
    train, backbone = stage.params[TrainSettings], completed(stage.params[BackboneSettings])
    method = {"method": train.method, "settings": stage.params.method(train.method).model_dump()}
    stage.run.log_params(
        {
            "train": train.model_dump(),
            "methods": {train.method: method["settings"]},
            "backbone": backbone.model_dump(),
            "augment": stage.params[AugmentSettings].model_dump(),
        }
    )
    rows = read_card(paths.DATASET).counts[Split.TRAIN]
    steps = steps_per_epoch(rows, train.batch_size, train.drop_last)
    seen: dict[str, float] = {"epoch": 0}
    with Bar(f"train {train.method}", "images", min(train.batch_size, rows / steps)) as bar:

        def on_event(name: str, values: Mapping[str, float], step: int) -> None:
            stage.run.log_metrics(
                {f"step/{key}": v for key, v in values.items()} if name == "step" else values, step
            )
            seen.update(values)
            bar.note = in_words(seen)

        hooks = Hooks(on_event, bar, partial(bar, label=f"prepare {train.method}"), stage.checkpoints)
        fitted = fit(stage.params, paths.DATASET, paths.BANK, hooks)
    progress = fitted.progress
    best = progress.best
    about = method | {
        "train": train.model_dump(),
        "best_epoch": progress.best_epoch,
        "selected_on": f"validation {train.monitor}",
    }
    with replacing(paths.MODEL) as fresh:
        fresh.mkdir()
        save_model(fresh, fitted.model, backbone, fitted.backbone.spec, list(fitted.card.classes), about)
        write_json(fresh / paths.HISTORY.name, progress.history)
    stage.run.log_metrics(
        {"best_epoch": progress.best_epoch, "best_val_accuracy": best["val_accuracy"]}, progress.step
    )
    stage.run.log_artifact(paths.HISTORY)
    stage.run.log_artifact(paths.MODEL / "model.json")
    epoch = f"best epoch {progress.best_epoch}" + ("" if progress.best_epoch else " (the start, untrained)")
    print(f"{train.method}: {epoch}, validation accuracy {best['val_accuracy']:.4f}")


if __name__ == "__main__":
    run_stage("train", main, SETTINGS)
