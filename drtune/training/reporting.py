"""One training with its progress told: what the train stage and each trial of a study do."""

from collections.abc import Callable, Mapping
from pathlib import Path

from drtune.base.report import Report
from drtune.base.settings import Params
from drtune.data.card import read_card
from drtune.data.loaders import steps_per_epoch
from drtune.data.packed import Split
from drtune.training.fit import Fitted, fit
from drtune.training.loop import Hooks, ignore
from drtune.training.settings import TrainSettings

OnEpoch = Callable[[Mapping[str, float]], None]
STEP_POINTS = 500
"""About how many points a metric of steps has in a run: MLflow's charts show 320, and each point costs up to
0.4 ms of processor time, which with quick steps is more than one percent of a training."""


def fit_and_report(
    params: Params, dataset: Path, bank: Path, report: Report, on_epoch: OnEpoch = ignore, prefix: str = ""
) -> Fitted:
    """Train `train.method` from its checkpoint, if there is one.

    Args:
        params: settings.
        dataset: folder of the packed data set.
        bank: file of the feature bank.
        report: gets the progress; holds the folder of the running state.
        on_epoch: called with each history record, after it was logged.
        prefix: before the names of metrics.
    """
    train = params[TrainSettings]
    rows = read_card(dataset).counts[Split.TRAIN]
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
        return fit(params, dataset, bank, hooks)


def replacements(params: Params) -> str:
    """What the method replaces of `train` by another value, in one line; empty where it does nothing."""
    was = params.raw["train"]
    changes = [f"train.{key}: {was[key]} -> {to}" for key, to in params.replaced.items() if to != was[key]]
    return f"{params[TrainSettings].method} replaces {', '.join(changes)}" if changes else ""


def in_words(values: Mapping[str, float]) -> str:
    """What a person watches of a training: epochs done, loss terms, learning rates, validation."""
    shown = {
        name.removeprefix("loss/"): value
        for name, value in values.items()
        if not name.startswith(("train", "weight/"))
    }
    return "  ".join(f"{name} {shown[name]:.4g}" for name in shown if name != "loss")
