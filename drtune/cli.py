"""The `drtune` command; heavy imports stand inside the commands, so that --help is quick."""

from pathlib import Path
from typing import Annotated

import typer

from drtune import cli_runs, cli_study, cli_upkeep

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Fine-tune a pretrained vision model; see README.md."
)


@app.callback()
def main() -> None:
    """Fine-tune a pretrained vision model on your own images and keep every number traceable."""


for command in (
    cli_runs.runs,
    cli_runs.restore,
    cli_runs.verify,
    cli_upkeep.sync,
    cli_upkeep.doctor,
    cli_upkeep.gc,
):
    app.command()(command)
app.add_typer(cli_runs.model, name="model")
app.add_typer(cli_study.study, name="study")


@app.command()
def check(params: Annotated[Path, typer.Argument(help="settings file")] = Path("params.yaml")) -> None:
    """Check a settings file: every fault of every section, at once. Exit code 2 where there is one."""
    from drtune.config import load, missing_paths
    from drtune.errors import ConfigError
    from drtune.faults import render
    from drtune.methods import SETTINGS

    with cli_runs.faults():
        if faults := missing_paths(load(params, SETTINGS)):
            raise ConfigError(render(params.name, faults))
    typer.echo(f"{params}: no faults")
