"""The commands about Optuna studies; `drtune.cli.main` puts them together."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drtune.cli.runs import faults, say

if TYPE_CHECKING:
    from drtune.studies.study import Study

study = typer.Typer(
    no_args_is_help=True, help="Optuna studies of the settings that params.yaml names in `study`."
)

Storage = Annotated[
    str, typer.Option(help="address of a database; .drtune/optuna.db, or OPTUNA_STORAGE, unless given")
]
Named = Annotated[str, typer.Argument(metavar="[STUDY]", help="name of a study; the newest unless given")]
Workers = Annotated[int, typer.Option(min=1, help="processes on this machine")]
Gpus = Annotated[str, typer.Option(help="GPUs that the workers share in turn: 0,1")]
Timeout = Annotated[float | None, typer.Option(min=0.0, help="seconds after which no trial is begun")]


@study.command()
def run(
    name: Annotated[str, typer.Option(help="of the study; the method and a fingerprint unless given")] = "",
    trials: Annotated[int | None, typer.Option(min=1, help="in all; study.trials unless given")] = None,
    timeout: Timeout = None,
    workers: Workers = 1,
    gpus: Gpus = "",
    storage: Storage = "",
) -> None:
    """Run trials until the study has all of them; the same command again goes on, here or elsewhere."""
    go(name, trials, timeout, workers, gpus, storage)


@study.command()
def resume(
    name: Named = "", timeout: Timeout = None, workers: Workers = 1, gpus: Gpus = "", storage: Storage = ""
) -> None:
    """Go on with a study: exactly the trials that are missing."""
    with faults():
        found = opened(name, storage)
    go(found.name, found.limit, timeout, workers, gpus, storage)


def go(name: str, trials: int | None, timeout: float | None, workers: int, gpus: str, storage: str) -> None:
    """Work on a study and say what came of it."""
    from drtune.runs.stage_key import store_root
    from drtune.studies.launch import Order, run_study
    from drtune.studies.status import as_text

    order = Order(name, trials, timeout, workers, [part for part in gpus.split(",") if part], storage)
    with faults():
        done = run_study(store_root(), order, say)
        say(as_text(done))


@study.command()
def status(name: Named = "", storage: Storage = "") -> None:
    """Say how a study stands: its trials, the best, what matters."""
    from drtune.studies.status import as_text

    with faults():
        say(as_text(opened(name, storage)))


@study.command(name="list")
def list_studies(storage: Storage = "") -> None:
    """List the studies of a storage, the newest last."""
    from drtune.runs.stage_key import store_root
    from drtune.studies.status import existing, overview
    from drtune.studies.storage import storage_url

    with faults():
        say(overview(existing(storage_url(store_root(), storage))))


@study.command()
def apply(
    name: Named = "",
    trial: Annotated[int | None, typer.Option(help="number of a trial; the best unless given")] = None,
    force: Annotated[
        bool, typer.Option(help="though params.yaml has changes that are not committed")
    ] = False,
    storage: Storage = "",
) -> None:
    """Write the best trial's settings into params.yaml; `dvc repro` then takes its model from the cache."""
    from drtune.runs.stage_key import store_root
    from drtune.studies.launch import apply_trial

    with faults():
        apply_trial(store_root(), opened(name, storage), trial, force, say)


@study.command()
def export(
    name: Named = "",
    out: Annotated[Path | None, typer.Option("--out", help="studies/NAME.json unless given")] = None,
    storage: Storage = "",
) -> None:
    """Write a study as small, sorted JSON for git."""
    from drtune.studies.winner import export as write

    with faults():
        found = opened(name, storage)
        target = out or Path("studies") / f"{found.name}.json"
        write(found, target)
        say(str(target))


@study.command()
def dashboard(
    port: Annotated[int, typer.Option(help="of the page on this machine")] = 8080, storage: Storage = ""
) -> None:
    """Open the storage in optuna-dashboard, which the extra `dashboard` installs."""
    from drtune.runs.stage_key import store_root
    from drtune.studies.status import existing, serve_dashboard
    from drtune.studies.storage import storage_url

    with faults():
        serve_dashboard(existing(storage_url(store_root(), storage)), port)


def opened(name: str, storage: str) -> "Study":
    """A study that is there; the newest without a name."""
    from drtune.runs.stage_key import store_root
    from drtune.studies.status import existing, newest
    from drtune.studies.storage import storage_url
    from drtune.studies.study import Study

    store = existing(storage_url(store_root(), storage))
    return Study(store, name or newest(store))
