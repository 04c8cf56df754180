"""typer's group of commands, with errors in one line as all of `mugv`'s are, and a list of commands that cuts no sentence."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup


class CommandGroup(TyperGroup):
    def main(self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        _print_any_name()
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except typer.TyperException as error:
            typer.echo(f"error: {_line(error)}", err=True)
            sys.exit(error.exit_code)
        except typer.Abort:
            typer.echo("error: stopped", err=True)
            sys.exit(1)
        sys.exit(code or 0)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The first sentence of each, over as many lines as it needs."""
        rows = [(name, command.get_short_help_str(limit=1000)) for name, command in self.commands.items() if not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _line(error: typer.TyperException) -> str:
    """What typer would say under three lines of usage."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message} (`{context.command_path} --help` lists what there is)" if context else message


def _print_any_name() -> None:
    """File names are bytes: one that is no text is printed escaped, where Python would end with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
