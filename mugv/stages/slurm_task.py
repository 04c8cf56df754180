"""What a Slurm job of `mugv slurm` runs, once for each of its nodes of the graph: `python -m mugv.stages.slurm_task NODE`.

The run's folder `<state>/runs/<run>` is on a file system that all nodes share: the script has put `recipe.json` there; `slurm/` gets
the roots of the run and the manifest of each node's output, which are what a pipeline would hand from task to task.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from mugv.errors import EXIT_USER, UserError
from mugv.platform.records import FINISHED, RunRecord, write_json
from mugv.recipe import Recipe, recipe_from_json
from mugv.stages.environment import RunEnvironment
from mugv.stages.execute import component_main
from mugv.stages.graph import build_graph, node_keys

BEGIN, FINISH = "begin", "finish"
"""Beside the graph's nodes: the run's record, before the first and after the last."""


def main(node: str) -> int:
    """The exit code (mugv.errors). `node`: one of the graph, BEGIN or FINISH."""
    environment = _environment(node)
    record = environment.record()
    try:
        recipe = _recipe(record)
        if node == BEGIN:
            _begin(recipe, environment)
        elif node == FINISH:
            return _finish(recipe, environment)
        else:
            _run(node, recipe, _folder(record))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    return 0


def _environment(node: str) -> RunEnvironment:
    """As for a task of a cluster. Without an MLflow server the state folder's own database gets the run at its end, from one process."""
    from mugv.platform.tracking import Tracking

    found = RunEnvironment.from_env()
    if not found.tracking_uri:
        tracking = Tracking.of_state(found.state)
        # The first job makes the experiment, whose artifacts then lie beside the database.
        experiment = tracking.experiment if node == BEGIN else ""
        found = replace(found, tracking_uri=tracking.uri, experiment=experiment, forwarded=True)
    os.environ.update(found.to_env())
    return found


def _recipe(record: RunRecord) -> Recipe:
    try:
        return recipe_from_json((record.folder / "recipe.json").read_text())
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; the run's folder must be on a file system that all nodes share") from None


def _folder(record: RunRecord) -> Path:
    return record.folder / "slurm"


def _begin(recipe: Recipe, environment: RunEnvironment) -> None:
    from mugv.stages.roots import Roots
    from mugv.stages.run_record import begin

    roots = Roots.of(recipe, environment.state)
    record = environment.record()
    begin(environment, recipe, roots.data)
    record.update(keys=node_keys(recipe, roots), slurm_job=os.environ.get("SLURM_JOB_ID", ""))
    _folder(record).mkdir(exist_ok=True)
    (_folder(record) / "roots.json").write_text(roots.to_json())


def _run(name: str, recipe: Recipe, folder: Path) -> None:
    nodes = {node.name: node for node in build_graph(recipe)}
    if name not in nodes:
        raise UserError(f"stage {name}: not in this recipe's graph; it has {', '.join(nodes)}")
    node = nodes[name]
    inputs = {key: str(folder / f"{source}.json") for key, source in node.inputs.items()}
    roots = (folder / "roots.json").read_text()
    component_main(node.stage, node.index, (folder.parent / "recipe.json").read_text(), inputs, str(folder / f"{name}.json"), roots)


def _finish(recipe: Recipe, environment: RunEnvironment) -> int:
    """0 where the run's last node ended well."""
    from mugv.stages.finish import finish

    last = build_graph(recipe)[-1].name
    well = environment.record().stage(last).get("status") in FINISHED
    record = finish(recipe, environment, "SUCCEEDED" if well else "", "a job was cancelled, or could not start")
    found = record.read()
    print(f"run {record.run} {found['status']}{': ' if found['error'] else ''}{found['error']}")
    write_json(_folder(record) / "finish.json", {"status": found["status"]})
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
