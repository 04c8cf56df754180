"""`mugv slurm`: the same graph as jobs of a Slurm cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mugv.cli.common import CaptionsOption, RecipeOption, SetOption, StateOption, VideosOption, check_output, read_recipe, state_folder


def slurm(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Script to write.")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Hand the jobs in.")] = False,
    recipe: RecipeOption = None,
    changes: SetOption = None,
    videos: VideosOption = None,
    captions: CaptionsOption = None,
    state: StateOption = None,
    partition: Annotated[str | None, typer.Option(help="Stands for resources.slurm.partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Stands for resources.slurm.account.")] = None,
    qos: Annotated[str | None, typer.Option(help="Stands for resources.slurm.qos.")] = None,
    time: Annotated[str | None, typer.Option(help="Stands for resources.slurm.time, such as 12:00:00.")] = None,
) -> None:
    """Write a script of Slurm jobs for the whole chain, or hand them in. The state folder must be on a file system of all nodes."""
    from mugv.errors import UserError
    from mugv.platform import slurm as cluster
    from mugv.stages.preflight import check
    from mugv.stages.slurm import script

    if output is None and not submit:
        raise UserError("slurm: give -o job.sh for the script, or --submit to hand the jobs in")
    if output is not None:
        check_output("-o", output)
    named = {"partition": partition, "account": account, "qos": qos, "time": time}
    more = [f"resources.slurm.{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    resolved = read_recipe(recipe, [*(changes or []), *more], videos, captions)
    check(resolved, here=False)
    folder = state_folder(state)
    text = script(resolved, folder)
    if output is not None:
        cluster.write_checked(text, output)
        typer.echo(f"wrote {output}{'' if cluster.present() else '; not checked: no sbatch on this machine'}")
    if submit:
        typer.echo(cluster.submit(text), nl=False)
