"""How studies stand: in words, in pictures and as JSON."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drtune.base.errors import StudyError
from drtune.base.files import write_json
from drtune.evaluation.pictures.style import save
from drtune.runs.naming import encoded
from drtune.runs.stage_key import store_root
from drtune.runs.store import sqlite_path
from drtune.studies.domains import described, written
from drtune.studies.pictures import study_figures
from drtune.studies.standing import Standing, counts, word_of
from drtune.studies.storage import Storage, open_storage, storage_url
from drtune.studies.study import Study

WIDTH = 200
SHOWN = 10
"""Trials in the table, the best."""
NONE = "there is no study yet; `drtune study run` makes one"


def existing(address: str) -> Storage:
    """The storage at an address or of the project; a StudyError where looking at it would make it."""
    url = storage_url(store_root(), address)
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise StudyError(NONE)
    return open_storage(url)


def named(name: str, address: str) -> Study:
    """A study in a storage that is there; the newest without a name."""
    storage = existing(address)
    return Study(storage, name or newest(storage))


def by_age(storage: Storage) -> list[str]:
    """Names of all studies, the newest last."""
    studies = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    return [study.study_name for study in studies]


def newest(storage: Storage) -> str:
    """Name of the study that was made last; a StudyError where there is none."""
    for name in reversed(by_age(storage)):
        return name
    raise StudyError(NONE)


def overview(storage: Storage) -> str:
    """One line a study, the newest last."""
    lines = []
    for name in by_age(storage):
        try:
            lines.append(f"{name}: {count_of(Study(storage, name))}")
        except StudyError as fault:
            lines.append(str(fault).removeprefix("study "))
    return "\n".join(lines) or NONE


def count_of(study: Study) -> str:
    """'20 trials: 12 complete, 8 pruned'."""
    return f"{study.limit} trials: {counts(study.standings()) or 'none begun'}"


def as_text(study: Study) -> str:
    """How a study stands: its best trials and those that run, as a table; what matters; what to do next."""
    trials, settings = study.standings(), study.settings
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    complete.sort(key=lambda trial: trial.values[0], reverse=settings.maximize[0])
    others = [trial for trial in trials if trial.state in ("RUNNING", "WAITING", "FAIL")]
    heads = ["trial", "state", *settings.objectives, *(name.rpartition(".")[2] for name in study.space), ""]
    table = Table(*heads, box=None, pad_edge=False)
    for trial in [*complete[:SHOWN], *others]:
        values = [f"{value:.4f}" for value in trial.values]
        values += [""] * (len(settings.objectives) - len(values))
        params = [written(trial.params[name]) if name in trial.params else "" for name in study.space]
        table.add_row(str(trial.first), word_of(trial), *values, *params, trial.fault or trial.where)
    out = io.StringIO()
    Console(file=out, width=WIDTH, markup=False, emoji=False).print(table)
    lines = [f"study {study.name}: {count_of(study)}", *map(str.rstrip, out.getvalue().rstrip().split("\n"))]
    if shares := sorted(study.importances().items(), key=lambda item: -item[1]):
        parts = ", ".join(f"{name} {share:.0%}" for name, share in shares)
        lines.append(f"what moves {settings.metric}: {parts}")
    return "\n".join([*lines, *advice(study, trials)])


def advice(study: Study, trials: Sequence[Standing]) -> list[str]:
    """What the best trial gains and how it is taken over; nothing before one is complete."""
    best, metric = study.best(), study.settings.metric
    if len(best) > 1:
        front = ", ".join(str(trial.first) for trial in best)
        command = f"`drtune study apply {study.name} --trial {best[0].first}`"
        return [f"best trade-offs: trials {front}; {command} writes one of them into params.yaml"]
    lines = [f"`drtune study apply {study.name}` writes trial {t.first} into params.yaml" for t in best]
    for own in trials:
        if own.first == 0 and own.state == "COMPLETE" and not study.settings.cost:
            stood, now = own.values[0], best[0].values[0]
            lines.insert(0, f"params.yaml as it stood: {metric} {stood:.4f}; best: {now:.4f}")
    return lines


def export(study: Study, path: Path) -> None:
    """Write what a study found as small, sorted JSON for git; equal studies give equal bytes."""
    summary: dict[str, Any] = {
        "name": study.name,
        "settings": {name: value for name, value in study.settings.model_dump().items() if name != "space"},
        "space": {name: described(domain) for name, domain in study.space.items()},
        "params": dict(study.design.params),
        "best": [trial.first for trial in study.best()],
        "trials": [
            {
                "number": trial.first,
                "state": trial.state,
                "values": [encoded(value) for value in trial.values],
                "params": dict(trial.params),
                **({"fault": trial.fault} if trial.fault else {}),
            }
            for trial in sorted(study.standings(), key=lambda trial: trial.first)
        ],
    }
    write_json(path, json.loads(json.dumps(summary, sort_keys=True)))


def write_report(study: Study, folder: Path) -> None:
    """Write the pictures of a study and its summary to a folder."""
    for name, figure in study_figures(study).items():
        save(figure, folder / f"{name}.png")
    export(study, folder / "study.json")
