"""`mugv runs`, `mugv show`, `mugv ui`: what ran, what it cost, where its outputs are."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mugv.cli.common import JsonOption, StateOption, existing_state, open_console, print_json
from mugv.errors import UserError


def runs(
    state: StateOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """The runs of a state folder."""
    from itertools import islice

    from rich.table import Table

    from mugv.cli.documents import run_line
    from mugv.platform.records import all_runs, run_folders

    folder = existing_state(state)
    lines = [run_line(record) for record in islice(all_runs(folder), limit)]
    damaged = [line for record in islice(run_folders(folder), limit) for line in record.damage()]
    if as_json:
        print_json({"state": str(folder), "runs": lines, "damaged": damaged})
        return
    table = Table("run", "recipe", "data", "status", "seconds", "stages", "hits", box=None, pad_edge=False)
    for line in lines:
        seconds = "" if line["seconds"] is None else f"{line['seconds']:.0f}"
        names = [line["run"], line["recipe"] or "", str(line["videos"] or "sample footage"), line["status"] or ""]
        table.add_row(*names, seconds, str(line["stage_count"]), str(line["hit_count"]))
    console = open_console()
    console.print(table if lines else f"no runs in {folder} yet")
    for text in damaged:
        console.print(f"{text}; its outputs are in the store all the same", markup=False)


def show(
    run: Annotated[str, typer.Argument(help="Run id, the start of one, or latest.")] = "latest",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """One run: stages, what they used, goodput of the training, outputs, the judge's table."""
    from mugv.cli.summary import print_judge, print_result, print_stages
    from mugv.cli.usage_table import print_usage
    from mugv.platform.records import find_run

    record = find_run(existing_state(state), run)
    if as_json:
        from mugv.cli.documents import run_document

        print_json(run_document(record))
        return
    described = record.read()
    console = open_console()
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(described.get("started", 0)))
    data, recipe = described.get("videos") or "sample footage", described.get("recipe_digest", "")[:12]
    commit = str(described.get("git", {}).get("commit", ""))[:12]
    console.print(f"run {record.run}  recipe {described.get('name', '')}  started {started}  {described.get('status', '')}", markup=False)
    console.print(f"data {data}  recipe {recipe}  commit {commit}", markup=False)
    for line in record.damage():
        console.print(line, markup=False)
    print_stages(console, record)
    print_usage(console, record)
    kfp = described.get("kfp", {})
    if {"seconds", "imports"} <= set(kfp):
        console.print(f"KFP overhead {kfp['seconds']:.2f} s a task, plus {kfp['imports']:.2f} s of process start and imports")
    if described.get("error"):
        console.print(f"error: {described['error']}", markup=False)
    console.print("outputs")
    for stage in record.stages():
        if stage.get("output", {}).get("digest"):
            console.print(f"  {stage['node']}  {stage['output'].get('uri', '')}", markup=False)
    print_judge(console, record)
    print_result(console, record)


def ui(
    state: StateOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """The MLflow pages for this machine's runs."""
    from mugv.platform.tracking import Tracking

    folder = existing_state(state)
    _check_address(host, port)
    tracking = Tracking.of_state(folder)
    tracking.prepare()
    uri = tracking.uri
    artifacts = Path(folder / "mlartifacts").as_uri()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--default-artifact-root", artifacts]
    os.execv(sys.executable, [*command, "--host", host, "--port", str(port)])


def _check_address(host: str, port: int) -> None:
    """MLflow's server says in many lines that another listens there."""
    import socket

    try:
        socket.create_server((host, port)).close()
    except (OSError, ValueError) as error:
        why = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise UserError(f"--host {host} --port {port}: cannot listen there ({why}); give another port or host") from None
