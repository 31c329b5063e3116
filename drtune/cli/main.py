"""The `drtune` command; heavy imports stand inside the commands, so that --help is quick."""

import typer

from drtune.cli import data, runs, study, upkeep
from drtune.cli.check import check

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Fine-tune a pretrained vision model; see README.md."
)


@app.callback()
def main() -> None:
    """Fine-tune a pretrained vision model on your own images and keep every number traceable."""


for command in (
    check,
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
