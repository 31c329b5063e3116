"""The commands about runs and their models; `drtune.cli.main` puts them together."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from drtune.runs.restore import Restored
    from drtune.runs.run_store import RunStore, StoredRun

PIPE_WIDTH = 240
"""Columns of a table that goes to a file or another program, where nothing is to be cut."""

model = typer.Typer(no_args_is_help=True, help="Hand finished models over: registry and serving.")
Run = Annotated[str, typer.Argument(metavar="RUN", help="id of a run, its first digits, or its name")]
Out = Annotated[Path | None, typer.Option("--out", help="folder to make")]
Alias = Annotated[str, typer.Option("--alias", help="name for this version, `champion` say")]


@contextmanager
def faults() -> Iterator[None]:
    """Print a fault of the user without a trace and exit with 2; a signal unwinds what was begun."""
    from drtune.base.errors import DRTuneError
    from drtune.runs.lifecycle import stopping

    try:
        with stopping():
            yield
    except DRTuneError as fault:
        typer.echo(str(fault), err=True)
        raise typer.Exit(2) from None


def opened() -> "RunStore":
    """The store of the project that the current folder belongs to."""
    from drtune.runs.run_store import RunStore
    from drtune.runs.stage_key import store_root

    return RunStore(store_root())


def runs(
    commit: Annotated[str, typer.Option(help="runs that made the results in this commit's dvc.lock")] = "",
    key: Annotated[str, typer.Option(help="runs of this stage key, or of its first digits")] = "",
    method: Annotated[str, typer.Option(help="runs of this method")] = "",
    limit: Annotated[int, typer.Option(min=1, help="newest runs shown, without --commit")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="complete, for programs")] = False,
) -> None:
    """List runs: stage, status, key, commit, headline metrics, link."""
    from rich.console import Console

    from drtune.runs import listing
    from drtune.runs.listing import stage_keys

    with faults():
        store = opened()
        if commit:
            keys = {k: v for k, v in stage_keys(store.root, commit).items() if v.startswith(key)}
            rows = [row for row in listing.runs_of_keys(store, keys) if fits(row.run, method)]
        else:
            rows = listing.chosen(store, key, method, limit)
        if as_json:
            typer.echo(listing.as_json(rows, store))
            return
        console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
        console.print(listing.as_table(rows, store))
        newest = next((row.run for row in rows if row.run), None)
        typer.echo(store.link(newest) if newest else "no such run")


def fits(run: "StoredRun | None", method: str) -> bool:
    """Whether a row is of the wanted method."""
    return not method or (run is not None and run.method == method)


def restore(run: Run, out: Out = None) -> None:
    """Make a git worktree with a run's code, patch, params, lock and data; say how to run it again."""
    with faults():
        _, restored = restored_at(run, out)
        report(restored)


def restored_at(name: str, out: Path | None) -> "tuple[StoredRun, Restored]":
    """Restore a run to `out`, else to .drtune/restored/<id> in the project."""
    from drtune.runs.restore import restore, stage_run_of

    store = opened()
    run = stage_run_of(store, store.get(name))
    target = out or store.root / ".drtune" / "restored" / run.run_id[:8]
    return run, restore(store, run, target.absolute())


def report(restored: "Restored") -> None:
    """Say what was restored and what to type."""
    typer.echo(f"{restored.stage}: code, settings and data of the run are in {restored.folder}")
    if restored.missing:
        typer.echo(f"not in any cache, made anew by the command: {', '.join(restored.missing)}")
    if restored.packages:
        typer.echo(f"packages that differ now: {', '.join(restored.packages)}")
    typer.echo(f"run it again: {restored.command}")


def verify(
    run: Run,
    out: Out = None,
    upstream: Annotated[bool, typer.Option(help="run the stages before it again too")] = False,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="accepted relative difference of numbers where a GPU takes part")
    ] = 0.01,
    keep: Annotated[bool, typer.Option(help="keep the worktree though all is equal")] = False,
) -> None:
    """Run a run's stage again from what was recorded and compare; exit code 1 where results differ."""
    from tempfile import TemporaryDirectory

    from drtune.runs import verify as check
    from drtune.runs.restore import forget

    with faults():
        found, restored = restored_at(run, out)
        report(restored)
        wanted = check.wanted_outs(restored, upstream)
        made = check.repeat(restored, upstream)
        allowed = tolerance if check.allows_tolerance(found) else None
        with TemporaryDirectory(prefix="drtune-") as scratch:
            held = check.artifact_of(opened(), found, Path(scratch))
            compared = check.compare(restored.folder, wanted, made, allowed, held)
        typer.echo(check.as_text(compared, allowed))
        if not all(one.within for one in compared):
            typer.echo(f"the worktree is kept: {restored.folder}")
            raise typer.Exit(1)
        if not keep:
            forget(opened().root, restored.folder)


@model.command()
def register(
    name: Annotated[str, typer.Argument(help="of the registered model")],
    run: Annotated[str, typer.Argument(help="training run; the newest finished one unless given")] = "",
    alias: Alias = "",
) -> None:
    """Register a run's model: a pointer to DVC's md5, which loads where DVC's cache is at hand."""
    from drtune.serving.registry import register_pointer

    with faults():
        typer.echo(register_pointer(opened(), name, run, alias))


@model.command()
def materialize(
    which: Annotated[
        str, typer.Argument(metavar="[RUN|FOLDER]", help="training run, or a model's folder")
    ] = "models",
    out: Out = None,
    register: Annotated[str, typer.Option(help="registered model to add it to, as a copy in the store")] = "",
    alias: Alias = "",
) -> None:
    """Write an MLflow model that needs nothing of the project: `mlflow models serve`, `pyfunc.load_model`."""
    from drtune.serving.registry import materialize_to

    with faults():
        if (out is None) == (not register):
            raise typer.BadParameter("give one of --out FOLDER and --register NAME")
        typer.echo(materialize_to(opened, which, out, register, alias))
