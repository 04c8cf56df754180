"""Writes docs/reference: every recipe key and every command, from the code.

python -m mugv.cli.reference_docs            write the pages
python -m mugv.cli.reference_docs --check    exit 1 and name the stale ones
"""

from __future__ import annotations

from typing import Any

import typer.main

from mugv.cli.main import app
from mugv.platform.generated import table, write_or_check
from mugv.platform.recipe_docs import recipe_page
from mugv.recipe import Recipe

MODULE = "mugv.cli.reference_docs"
INTRODUCTION = f"""\
# Commands

<!-- Generated from mugv/cli by `python -m {MODULE}`. -->

`mugv COMMAND --help` prints the same. A user's mistake ends a command with one line on standard error and exit code 2.
"""


def files() -> dict[str, str]:
    """Path below the repository -> text of the page."""
    return {"docs/reference/recipe.md": recipe_page(Recipe), "docs/reference/commands.md": commands_page(typer.main.get_command(app))}


def commands_page(group: Any) -> str:
    """Markdown with a section for each command of a typer group. Raises ValueError naming the options that have no help."""
    commands: dict[str, Any] = group.commands
    silent = [f"{name} {_name(p)}" for name, command in commands.items() for p in _shown(command) if not getattr(p, "help", None)]
    if silent:
        raise ValueError(f"no help: {', '.join(silent)}")
    overview = [[f"[`{group.name} {name}`](#{group.name}-{name})", _help(command)] for name, command in commands.items()]
    lines = [INTRODUCTION, *table(["Command", "What"], overview)]
    for name, command in commands.items():
        lines += _section(f"{group.name} {name}", command)
    return "\n".join(lines)


def _section(title: str, command: Any) -> list[str]:
    arguments = [p for p in _shown(command) if p.param_type_name == "argument"]
    options = [p for p in _shown(command) if p.param_type_name == "option"]
    usage = " ".join([title, *(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments)])
    return [
        f"## {title}",
        "",
        _help(command),
        "",
        f"    {usage}{' [OPTIONS]' if options else ''}",
        "",
        *table(["Argument", "Default", "What"], [[f"`{p.name.upper()}`", _default(p), p.help] for p in arguments]),
        *table(["Option", "Value", "Default", "What"], [[_flags(p), _value(p), _default(p), p.help] for p in options]),
    ]


def _shown(command: Any) -> list[Any]:
    return [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]


def _help(command: Any) -> str:
    return " ".join((command.help or "").split())


def _name(parameter: Any) -> str:
    return str(parameter.opts[-1])


def _flags(parameter: Any) -> str:
    return ", ".join(f"`{name}`" for name in parameter.opts)


def _value(parameter: Any) -> str:
    """What follows the option: its metavar or type, with the limits of a number."""
    if parameter.is_flag:
        return ""
    limits = [f"at {word} {limit:g}" for word, limit in (("least", parameter.min), ("most", parameter.max)) if limit is not None]
    kind = parameter.metavar or _type_name(parameter)
    return ", ".join([f"`{kind}`", *limits]) + ("; may be repeated" if parameter.multiple else "")


def _type_name(parameter: Any) -> str:
    names = {"int": "NUMBER", "float": "NUMBER", "str": "TEXT", "Path": "PATH"}
    return names.get(parameter.type_descriptor.annotation.__name__, "VALUE")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False:
        return ""
    return f"`{parameter.default}`"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return write_or_check(files(), MODULE, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
