"""The commands that keep runs, store and disk in order; `drtune.cli.main` puts them together."""

from pathlib import Path
from typing import Annotated

import typer

from drtune.cli.runs import faults

DryRun = Annotated[bool, typer.Option("--dry-run", help="only say what would go")]
Unfinished = Annotated[
    bool, typer.Option(help="also checkpoints of stopped trainings, which then begin anew")
]


def sync() -> None:
    """Complete the MLflow runs: what a store that was away missed, dead runs, stages from DVC's cache."""
    from drtune.runs.naming import PROJECT
    from drtune.runs.stage_key import store_root
    from drtune.runs.sync import sync as synchronise

    with faults():
        done = synchronise(store_root(), PROJECT, Path("dvc.lock"))
    typer.echo(f"journals: {len(done.shipped)} shipped, {len(done.busy)} in use, {len(done.left)} left")
    typer.echo(f"runs: {len(done.ended)} dead ones ended, {len(done.adopted)} adopted from dvc.lock")
    if done.link:
        typer.echo(f"pipeline: {done.link}")
    for stage, run in done.deleted.items():
        back = f"bring it back with `mlflow runs restore --run-id {run}`"
        typer.echo(f"{stage}: its run {run[:8]} was deleted; {back}", err=True)
    for path, reason in {**done.torn, **done.left}.items():
        typer.echo(f"{path}: {reason}", err=True)
    if done.left:
        raise typer.Exit(1)


def doctor() -> None:
    """Look at everything around the runs; exit code 1 where something is at fault, 2 where the store is."""
    from drtune.runs.doctor import FAULT, examine
    from drtune.runs.naming import PROJECT
    from drtune.runs.stage_key import store_root

    findings = examine(store_root(), Path.cwd(), PROJECT)
    for finding in findings:
        typer.echo(f"{finding.level:<5}  {finding.about:<16}  {finding.found}")
        if finding.remedy:
            typer.echo(f"{'':<25}  {finding.remedy}")
    if faults := [finding.about for finding in findings if finding.level == FAULT]:
        raise typer.Exit(2 if "store" in faults else 1)


def gc(dry_run: DryRun = False, unfinished: Unfinished = False) -> None:
    """Free the disk of checkpoints, journals and leftovers that no run needs; never of what is in use."""
    from drtune.runs.garbage import collect_garbage
    from drtune.runs.stage_key import store_root

    found = collect_garbage(store_root(), dry_run, unfinished)
    for item in found:
        word = "kept" if item.kept else "would go" if dry_run else "removed"
        typer.echo(f"{word:<8}  {item.size / 1e6:9.1f} MB  {item.path}: {item.why}")
    freed = sum(item.size for item in found if not item.kept)
    typer.echo(f"{'would free' if dry_run else 'freed'} {freed / 1e6:.1f} MB")
