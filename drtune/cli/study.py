"""The commands about Optuna studies; `drtune.cli.main` puts them together."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from drtune.cli.runs import faults

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
    from drtune.studies import report

    with faults():
        found = report.named(name, storage)
    go(found.name, found.limit, timeout, workers, gpus, storage)


def go(name: str, trials: int | None, timeout: float | None, workers: int, gpus: str, storage: str) -> None:
    """Work on a study and say what came of it."""
    from drtune.runs.stage_key import store_root
    from drtune.studies import launch, report

    order = launch.Order(name, trials, timeout, workers, [part for part in gpus.split(",") if part], storage)
    with faults():
        typer.echo(report.as_text(launch.run_study(store_root(), order, typer.echo)))


@study.command()
def status(name: Named = "", storage: Storage = "") -> None:
    """Say how a study stands: its trials, the best, what matters."""
    from drtune.studies import report

    with faults():
        typer.echo(report.as_text(report.named(name, storage)))


@study.command(name="list")
def list_studies(storage: Storage = "") -> None:
    """List the studies of a storage, the newest last."""
    from drtune.studies import report

    with faults():
        typer.echo(report.overview(report.existing(storage)))


@study.command()
def apply(
    name: Named = "",
    trial: Annotated[int | None, typer.Option(help="number of a trial; the best unless given")] = None,
    force: Annotated[bool, typer.Option(help="though params.yaml has uncommitted changes")] = False,
    storage: Storage = "",
) -> None:
    """Write the best trial's settings into params.yaml; `dvc repro` then takes its model from the cache."""
    from drtune.runs.stage_key import store_root
    from drtune.studies import report, winner

    with faults():
        winner.apply_trial(store_root(), report.named(name, storage), trial, force, typer.echo)


@study.command()
def export(
    name: Named = "",
    out: Annotated[Path | None, typer.Option("--out", help="studies/NAME.json unless given")] = None,
    storage: Storage = "",
) -> None:
    """Write a study as small, sorted JSON for git."""
    from drtune.studies import report

    with faults():
        found = report.named(name, storage)
        target = out or Path("studies") / f"{found.name}.json"
        report.export(found, target)
        typer.echo(str(target))


@study.command()
def dashboard(
    port: Annotated[int, typer.Option(help="of the page on this machine")] = 8080, storage: Storage = ""
) -> None:
    """Open the storage in optuna-dashboard, which the extra `dashboard` installs; Ctrl-C ends it."""
    from drtune.base.errors import StudyError
    from drtune.studies import report

    with faults():
        found = report.existing(storage)
        try:
            import_module("optuna_dashboard").run_server(found, host="127.0.0.1", port=port)
        except ImportError:
            remedy = "pip install 'drtune-pipeline[dashboard]'"
            raise StudyError(f"optuna-dashboard is not installed; {remedy}") from None
        except OSError as fault:
            raise StudyError(f"port {port}: {fault.strerror}; choose another with --port") from None
