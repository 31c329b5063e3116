"""One training with its progress and its reports: what the train stage and each trial of a study do."""

from collections.abc import Callable, Mapping
from functools import partial

from drtune.data.card import read_card
from drtune.data.loaders import steps_per_epoch
from drtune.data.packed import Split
from drtune.runs.console import Bar, in_words
from drtune.runs.runner import Stage
from drtune.training.fit import Fitted, fit
from drtune.training.loop import Hooks, ignore
from drtune.training.settings import TrainSettings
from pipeline import paths

OnEpoch = Callable[[Mapping[str, float]], None]
STEP_POINTS = 500
"""About how many points a metric of steps has in a run: MLflow's charts show 320, and each point costs up to
0.4 ms of processor time, which with quick steps is more than one percent of a training."""


def trained(stage: Stage, on_epoch: OnEpoch = ignore, prefix: str = "") -> Fitted:
    """Train `train.method` from its checkpoint, if there is one.

    Args:
        stage: its settings, run and folder of running state.
        on_epoch: called with each history record, after it was logged.
        prefix: before the names of metrics.
    """
    train = stage.params[TrainSettings]
    rows = read_card(paths.DATASET).counts[Split.TRAIN]
    steps = steps_per_epoch(rows, train.batch_size, train.drop_last)
    every = max(1, train.epochs * steps // STEP_POINTS)
    seen: dict[str, float] = {"epoch": 0}
    with Bar(f"train {train.method}", "images", min(train.batch_size, rows / steps)) as bar:

        def on_event(name: str, values: Mapping[str, float], step: int) -> None:
            before = prefix + ("step/" if name == "step" else "")
            if name == "epoch" or step % every == 0:
                stage.run.log_metrics({before + key: value for key, value in values.items()}, step)
            seen.update(values)
            bar.note = in_words(seen)
            if name == "epoch":
                on_epoch(values)

        hooks = Hooks(on_event, bar, partial(bar, label=f"prepare {train.method}"), stage.checkpoints)
        return fit(stage.params, paths.DATASET, paths.BANK, hooks)
