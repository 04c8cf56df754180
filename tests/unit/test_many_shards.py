"""10,000 shards: what each task is started with, and what it asks of the store, does not grow with their number."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from pipeline_recipes import CAPTIONED, full_recipe
from recipes import small_recipe
from test_pipelines import compiled, roots_of

from mugv.recipe import recipe_to_json
from mugv.stages.environment import RunEnvironment
from mugv.stages.execute import cached_nodes, run_node
from mugv.stages.graph import Keys, node_keys
from mugv.stages.roots import Roots
from mugv.store import DirectoryStore, Ref

SHARDS = 10_000
ARGUMENT, ALL = 131_072, 2 << 20
"""Bytes that Linux takes as one argument of a process (MAX_ARG_STRLEN), and as all of them."""


def test_no_task_of_10_000_shards_has_an_argument_that_linux_refuses(tmp_path: Path) -> None:
    recipe = full_recipe(data={"shards": SHARDS}, curation=CAPTIONED)
    began = time.monotonic()
    ir, _ = compiled(recipe, tmp_path, roots_of(recipe))
    assert time.monotonic() - began < 20
    assert (tmp_path / "pipeline.yaml").stat().st_size < 1 << 20
    # What KFP hands to every task as one argument: its inputs by value, its artifacts by name.
    given = {"recipe": recipe_to_json(recipe), "roots": roots_of(recipe).to_json(), "index": SHARDS}
    artifact = {
        "name": "x" * 200,
        "uri": "s3://" + "x" * 500,
        "metadata": dict.fromkeys(("uri", "key", "digest", "stage", "node"), "x" * 200),
    }
    for label, executor in ir["deploymentSpec"]["executors"].items():
        component = next(c for c in ir["components"].values() if c.get("executorLabel") == label)
        # The exit handler's task takes the run's state as an object.
        taken = {n: p for n, p in component["inputDefinitions"]["parameters"].items() if p["parameterType"] != "TASK_FINAL_STATUS"}
        assert not [name for name, parameter in taken.items() if parameter["parameterType"] == "LIST"], label
        artifacts = {**component["inputDefinitions"].get("artifacts", {}), **component["outputDefinitions"].get("artifacts", {})}
        assert not [name for name, found in artifacts.items() if found.get("isArtifactList")], label
        one = json.dumps({**{name: given[name] for name in taken}, **dict.fromkeys(artifacts, artifact)})
        arguments = [*executor["container"]["command"], *executor["container"]["args"], json.dumps(one)]
        assert max(len(text.encode()) for text in arguments) < ARGUMENT, label
        assert sum(len(text.encode()) for text in arguments) < ALL, label
    assert len(json.dumps([float(i) for i in range(SHARDS)])) < ARGUMENT, "the list of shards goes through one parameter"


class CountingStore(DirectoryStore):
    asked: list[str]

    def find(self, prefix: str) -> Ref | None:
        self.asked.append(prefix)
        return super().find(prefix)


@pytest.mark.parametrize("node", ["curate_shard-777", "scan", "footage"])
def test_a_task_asks_the_store_for_few_of_20_000_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str) -> None:
    """Each pod looked up every node: 20,000 requests, 10,000 times."""
    recipe = small_recipe(tmp_path, f"data.shards={SHARDS}")
    roots = Roots.of(recipe)
    store = CountingStore(tmp_path / "store")
    monkeypatch.setattr(RunEnvironment, "open_store", lambda self: store)
    environment = RunEnvironment(tmp_path / "state", str(tmp_path / "store"), run="r1", forwarded=True)
    # All that reads the clips is there: nothing before needs to be made.
    keys = Keys(recipe, roots)
    (tmp_path / "out").mkdir()
    store.asked = []
    store.publish(tmp_path / "out", f"register/{keys['register']}", keys["register"])
    store.asked.clear()
    assert run_node(node, recipe, {}, environment, roots).digest == ""
    assert len(store.asked) <= 3


def test_keys_of_single_shards_are_those_of_the_whole_graph(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "data.shards=40")
    roots = Roots.of(recipe)
    all_keys = node_keys(recipe, roots)
    assert {name: Keys(recipe, roots)[name] for name in reversed(all_keys)} == all_keys


def test_outputs_that_are_there_are_found_in_the_order_asked(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "data.shards=40")
    keys, store = Keys(recipe, Roots.of(recipe)), DirectoryStore(tmp_path / "store")
    for i in (7, 3):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "number").write_text(str(i))
        store.publish(tmp_path / "out", f"curate_shard/{keys[f'curate_shard-{i}']}", keys[f"curate_shard-{i}"])
    found = cached_nodes(["curate_shard-7", "scan", "curate_shard-3"], keys, store)
    assert [(name, (store.fetch(ref) / "number").read_text()) for name, ref in found.items()] == [
        ("curate_shard-7", "7"),
        ("curate_shard-3", "3"),
    ]
