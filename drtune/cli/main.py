"""The `drtune` command; heavy imports stand inside the commands, so that --help is quick."""

from pathlib import Path
from typing import Annotated

import typer

from drtune.cli import data, runs, study, upkeep

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Fine-tune a pretrained vision model; see README.md."
)


@app.callback()
def main() -> None:
    """Fine-tune a pretrained vision model on your own images and keep every number traceable."""


for command in (
    data.data,
    runs.runs,
    runs.restore,
    runs.verify,
    upkeep.sync,
    upkeep.doctor,
    upkeep.gc,
):
    app.command()(command)
app.add_typer(runs.model, name="model")
app.add_typer(study.study, name="study")


@app.command()
def check(params: Annotated[Path, typer.Argument(help="settings file")] = Path("params.yaml")) -> None:
    """Check a settings file: every fault of every section, at once. Exit code 2 where there is one."""
    from drtune.base.errors import ConfigError
    from drtune.base.faults import render
    from drtune.params import load, missing_paths

    with runs.faults():
        if faults := missing_paths(load(params)):
            raise ConfigError(render(params.name, faults))
    typer.echo(f"{params}: no faults")
