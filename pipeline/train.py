"""Stage 3: train one method; the epoch is chosen on validation."""

from collections.abc import Callable, Mapping
from pathlib import Path

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import completed
from drtune.base.files import write_json
from drtune.base.report import Report
from drtune.base.settings import Params
from drtune.data.card import read_card
from drtune.data.loaders import steps_per_epoch
from drtune.data.packed import Split
from drtune.data.settings import AugmentSettings
from drtune.training.fit import Fitted, fit
from drtune.training.loop import Hooks, ignore
from drtune.training.output import save, validation_of
from drtune.training.settings import TrainSettings
from pipeline import paths

OnEpoch = Callable[[Mapping[str, float]], None]
STEP_POINTS = 500
"""About how many points a metric of steps has in a run: MLflow's charts show 320, and each point costs up to
0.4 ms of processor time, which with quick steps is more than one percent of a training."""


def main(params: Params, report: Report) -> None:
    """Write `models/` and `metrics/validation.json`."""
    log_settings(params, report)
    fitted = trained(params, report)
    write(fitted, params, report)
    kept, best = fitted.progress.best_epoch, fitted.progress.best
    epoch = f"kept epoch {kept}" + ("" if kept else " (the start, untrained)")
    report.say(f"{params[TrainSettings].method}: {epoch}, validation accuracy {best['val_accuracy']:.4f}")


def log_settings(params: Params, report: Report) -> None:
    """Say what is trained, and how."""
    train = params[TrainSettings]
    report.log_params(
        {
            "train": train.model_dump(),
            "methods": {train.method: params.method(train.method).model_dump()},
            "backbone": completed(params[BackboneSettings]).model_dump(),
            "augment": params[AugmentSettings].model_dump(),
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


def trained(params: Params, report: Report, on_epoch: OnEpoch = ignore, prefix: str = "") -> Fitted:
    """Train `train.method` from its checkpoint, if there is one: what this stage and each trial do.

    Args:
        params: settings.
        report: gets the progress; holds the folder of the running state.
        on_epoch: called with each history record, after it was logged.
        prefix: before the names of metrics.
    """
    train = params[TrainSettings]
    rows = read_card(paths.DATASET).counts[Split.TRAIN]
    steps = steps_per_epoch(rows, train.batch_size, train.drop_last)
    every = max(1, train.epochs * steps // STEP_POINTS)
    seen: dict[str, float] = {"epoch": 0}
    with report.progress(f"train {train.method}", "images", min(train.batch_size, rows / steps)) as progress:

        def on_event(name: str, values: Mapping[str, float], step: int) -> None:
            before = prefix + ("step/" if name == "step" else "")
            if name == "epoch" or step % every == 0:
                report.log_metrics({before + key: value for key, value in values.items()}, step)
            seen.update(values)
            progress.note = in_words(seen)
            if name == "epoch":
                on_epoch(values)

        def on_prepare(done: int, total: int) -> None:
            progress(done, total, f"prepare {train.method}")

        hooks = Hooks(on_event, progress, on_prepare, report.checkpoints)
        return fit(params, paths.DATASET, paths.BANK, hooks)


def in_words(values: Mapping[str, float]) -> str:
    """What a person watches of a training: epochs done, loss terms, learning rates, validation."""
    shown = {name.removeprefix("loss/"): value for name, value in values.items() if "train" not in name}
    return "  ".join(f"{name} {shown[name]:.4g}" for name in shown if name != "loss")
