"""`mugv convert`: between the published single file and a checkpoint folder, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mugv.cli.common import check_output, open_console, read_recipe
from mugv.errors import UserError

if TYPE_CHECKING:
    from mugv.training.convert import Difference, Report


def convert(
    source: Annotated[Path, typer.Argument(help="A released DiT or VAE file (.safetensors, .pt), or a folder of either.")],
    target: Annotated[Path, typer.Argument(help="The folder to make from a file; the .safetensors or .pt file to make from a folder.")],
    dtype: Annotated[str | None, typer.Option("--dtype", help="bf16, fp16 or fp32 (default: each tensor keeps its type).")] = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="NAME", help="Tensor that may be unexpected, or a norm that may be missing.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Recipe whose size the file must have (default: the file's own).")] = None,
    negative: Annotated[
        str | None, typer.Option(help="DiT: what guidance leads away from by default; kept in the folder (default: the empty text).")
    ] = None,
) -> None:
    """Released weights to a checkpoint folder, or back; one tensor in memory at a time."""
    from rich.progress import Progress

    from mugv.training.convert import DTYPES, MismatchError, Options
    from mugv.training.convert import convert as run

    if dtype not in (None, *DTYPES):
        raise UserError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}")
    check_output("TARGET", target)
    console = open_console(progress=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"writing {target.name}", total=None)
        options = Options(
            dtype=dtype,  # type: ignore[arg-type]
            allow=tuple(allow or ()),
            recipe=read_recipe(recipe, None) if recipe else None,
            negative=negative,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        try:
            report = run(source, target, options)
        except MismatchError as error:
            bar.stop()
            _print_differences(error.differences)
            raise
    _print_report(report)


def _print_differences(differences: list[Difference]) -> None:
    from rich.table import Table

    table = Table("tensor", "what is wrong", "found", "expected", title="Tensors that do not match")
    for d in differences:
        table.add_row(d.name, d.kind, str(list(d.found)) if d.found is not None else "", str(list(d.expected)) if d.expected else "")
    open_console().print(table)


def _print_report(report: Report) -> None:
    for name, what in report.exceptions.items():
        typer.echo(f"{name}: {what}")
    rate = report.nbytes / max(report.seconds, 1e-9) / 1e6
    typer.echo(
        f"wrote {report.target}: {report.parameters:,} parameters in {report.tensors} tensors, "
        f"{report.nbytes / 1e9:.2f} GB in {report.seconds:.1f} s ({rate:.0f} MB/s)"
    )
