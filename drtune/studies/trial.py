"""One trial of a study: the training of the train stage under other settings, once a seed."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from drtune.base.settings import Params
from drtune.runs.holdings import holding
from drtune.runs.lifecycle import exclusive
from drtune.runs.mlflow_study import trial_run
from drtune.runs.record import RunRecord
from drtune.runs.runner import RunReport, downloads_of
from drtune.runs.stage_key import StageIdentity, stage_key, under
from drtune.studies.space import resolved
from drtune.studies.study import Attempt, Pruned, Study
from drtune.studies.winner import edited
from drtune.studies.worker import Score, Stopwatch, take_over, trial_folder
from drtune.training.checkpoint import read_checkpoint
from drtune.training.reporting import fit_and_report
from drtune.training.settings import TrainSettings
from pipeline import paths
from pipeline.train import log_settings, write


def run_trial(
    study: Study, params: Params, stage: StageIdentity, record: RunRecord, root: Path, attempt: Attempt
) -> list[float]:
    """Train as a trial says; returns its value, and its seconds where they are an objective."""
    train = params[TrainSettings]
    score = Score(attempt, study.settings.metric, train.monitor)
    place = trial_folder(root, study.name, attempt.first)
    with exclusive(place):
        take_over(place, stage_key(stage.entry, attempt.params))
        watch, folder = Stopwatch(place / "seconds"), place / f"seed-{train.seed}"
        identity = lay_out(Path.cwd(), folder, stage, attempt.params)
        about = study.label, attempt.first, study.run_id, record, identity, root, Pruned
        with trial_run(*about) as run, holding(run, record, identity, folder, "train", Path.cwd()):
            for seed in range(train.seed, train.seed + study.settings.seeds):
                settings = resolved(params, attempt.params | {"train.seed": seed})
                report = RunReport(run, place / f"seed-{seed}", downloads_of(root))
                train_once(settings, report, score, watch, first=seed == train.seed)
            seconds = watch.read()
            run.log_metrics({"objective": score.value, "seconds": seconds})
    return [score.value, seconds] if study.settings.cost else [score.value]


def train_once(params: Params, report: RunReport, score: Score, watch: Stopwatch, first: bool) -> None:
    """One training of a trial, from its checkpoint if there is one; of the first the model is kept."""
    if first:
        log_settings(params, report)
    if (state := read_checkpoint(report.checkpoints)) is not None:
        for record in state["progress"].history:
            score.epoch(record)

    def on_epoch(record: Mapping[str, float]) -> None:
        watch.read()
        score.epoch(record)

    prefix = "" if first else f"seed_{params[TrainSettings].seed}/"
    fitted = fit_and_report(params, paths.DATASET, paths.BANK, report, on_epoch, prefix)
    if first:
        write(fitted, params, report, report.checkpoints)
    score.end_training()


def lay_out(project: Path, folder: Path, identity: StageIdentity, values: Mapping[str, Any]) -> StageIdentity:
    """Make a trial's folder one like the project's, with its own params.yaml.

    Returns what the train stage is made from under these values; its outs will lie in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = edited((project / "params.yaml").read_text(encoding="utf-8"), values)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    for name in ("dvc.yaml", "dvc.lock"):
        if (project / name).exists():
            shutil.copy(project / name, folder / name)
    entry = under(identity.entry, values)
    return replace(identity, key=stage_key(entry), entry=entry)
