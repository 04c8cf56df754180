"""The `mugv` command. Each subcommand is a small module that imports what it needs when it runs."""

from __future__ import annotations

from collections.abc import Callable

import typer

from mugv.cli import cluster, convert, curate, generate, inspect, models, plan, run, stage
from mugv.cli.common import one_line_errors

app = typer.Typer(
    name="mugv",
    help="From raw video to a registered video generator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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
    "ui": inspect.ui,
    "compile": cluster.compile_,
    "submit": cluster.submit,
    "schedule": cluster.schedule,
    "stage": stage.stage,
}
for name, function in COMMANDS.items():
    app.command(name)(one_line_errors(function))


if __name__ == "__main__":
    app()
