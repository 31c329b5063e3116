"""How studies stand, in words."""

import io
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from rich.console import Console
from rich.table import Table

from drtune.base.errors import StudyError
from drtune.runs.store import sqlite_path
from drtune.studies.standing import Standing
from drtune.studies.storage import Storage, open_storage
from drtune.studies.study import Study

WIDTH = 200
SHOWN = 10
"""Trials in the table, the best."""
NONE = "there is no study yet; `drtune study run` makes one"


def existing(url: str) -> Storage:
    """The storage at an address, which looking at it does not make.

    Raises:
        StudyError: there is none, or it cannot be used.
    """
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise StudyError(NONE)
    return open_storage(url)


def by_age(storage: Storage) -> list[str]:
    """Names of all studies, the newest last."""
    return [
        study.study_name for study in sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    ]


def newest(storage: Storage) -> str:
    """Name of the study that was made last.

    Raises:
        StudyError: there is none.
    """
    studies = by_age(storage)
    if not studies:
        raise StudyError(NONE)
    return studies[-1]


def overview(storage: Storage) -> str:
    """One line a study, the newest last."""
    lines = []
    for name in by_age(storage):
        try:
            lines.append(f"{name}: {count_of(Study(storage, name))}")
        except StudyError:
            lines.append(f"{name}: not made by `drtune study run`")
    return "\n".join(lines) or NONE


def count_of(study: Study) -> str:
    """'20 trials: 12 complete, 8 pruned'."""
    return f"{study.limit} trials: {counts(study.standings()) or 'none begun'}"


def counts(trials: Sequence[Standing]) -> str:
    """'12 complete, 8 pruned'."""
    words = Counter(word_of(trial) for trial in trials)
    return ", ".join(f"{count} {word}" for word, count in words.items())


def word_of(trial: Standing) -> str:
    """How a trial stands; `stopped` is one that failed with its process and will be given again."""
    return "stopped" if trial.state == "FAIL" and not trial.fault else trial.state.lower()


def as_text(study: Study) -> str:
    """A study's counts, its best trials and those that run, as a table."""
    trials, metric = study.standings(), study.settings.metric
    heads = study.settings.objectives
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    complete.sort(key=lambda trial: trial.values[0], reverse=study.maximize()[0])
    table = Table(box=None, pad_edge=False)
    for head in ("trial", "state", *heads, *(name.rpartition(".")[2] for name in study.space), ""):
        table.add_column(head)
    others = [trial for trial in trials if trial.state in ("RUNNING", "WAITING", "FAIL")]
    for trial in [*complete[:SHOWN], *others]:
        values = [f"{value:.4f}" for value in trial.values] or [""]
        values += [""] * (len(heads) - len(values))
        params = [text_of(trial.params.get(name, "")) for name in study.space]
        table.add_row(str(trial.first), word_of(trial), *values, *params, trial.fault or trial.where)
    out = io.StringIO()
    Console(file=out, width=WIDTH, markup=False, emoji=False).print(table)
    lines = [f"study {study.name}: {count_of(study)}", *map(str.rstrip, out.getvalue().rstrip().split("\n"))]
    if shares := sorted(study.importances().items(), key=lambda item: -item[1]):
        lines.append(f"what moves {metric}: " + ", ".join(f"{name} {share:.0%}" for name, share in shares))
    return "\n".join([*lines, *advice(study, trials)])


def advice(study: Study, trials: Sequence[Standing]) -> list[str]:
    """What the best trial gains and how it is taken over; nothing before one is complete."""
    best, metric = study.best(), study.settings.metric
    if len(best) > 1:
        front = ", ".join(str(trial.first) for trial in best)
        command = f"`drtune study apply {study.name} --trial {best[0].first}`"
        return [f"best trade-offs: trials {front}; {command} writes one of them into params.yaml"]
    lines = []
    for trial in best:
        start = next((own for own in trials if own.first == 0 and own.state == "COMPLETE"), None)
        if start is not None and not study.settings.cost:
            lines.append(
                f"params.yaml as it stood: {metric} {start.values[0]:.4f}; best: {trial.values[0]:.4f}"
            )
        lines.append(f"`drtune study apply {study.name}` writes trial {trial.first} into params.yaml")
    return lines


def text_of(value: object) -> str:
    """A value as params.yaml has it, shortly."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def serve_dashboard(storage: Storage, port: int) -> None:
    """Serve optuna-dashboard on this machine until Ctrl-C.

    Raises:
        StudyError: it is not installed, or the port is taken.
    """
    if find_spec("optuna_dashboard") is None:
        raise StudyError("optuna-dashboard is not installed; pip install 'drtune-pipeline[dashboard]'")
    try:
        import_module("optuna_dashboard").run_server(storage, host="127.0.0.1", port=port)
    except OSError as fault:
        raise StudyError(f"port {port}: {fault.strerror}; choose another with --port") from None
