"""The `mugv` command. Each subcommand is a small module that imports what it needs when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from mugv import __version__
from mugv.cli import cluster, convert, curate, doctor, drift, generate, inspect, models, plan, run, slurm, stage
from mugv.cli.common import one_line_errors, with_talk
from mugv.cli.group import CommandGroup

app = typer.Typer(
    name="mugv",
    cls=CommandGroup,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def mugv(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False
) -> None:
    """From raw video to a registered video generator."""
    if version:
        typer.echo(f"mugv {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "curate": curate.curate,
    "plan": plan.plan,
    "runs": inspect.runs,
    "show": inspect.show,
    "generate": generate.generate,
    "convert": convert.convert,
    "lineage": models.lineage,
    "promote": models.promote,
    "rollback": models.rollback,
    "drift": drift.drift,
    "confirm": drift.confirm,
    "ui": inspect.ui,
    "compile": cluster.compile_,
    "submit": cluster.submit,
    "schedule": cluster.schedule,
    "doctor": doctor.doctor,
    "slurm": slurm.slurm,
    "stage": stage.stage,
}
LONG = ("run", "curate", "generate", "convert", "stage")
"""Commands that work for a while: they take -q and -v."""
for name, function in COMMANDS.items():
    app.command(name)(one_line_errors(with_talk(function) if name in LONG else function))


if __name__ == "__main__":
    app()
