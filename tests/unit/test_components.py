"""Components: they compile, say what they are, and stay in step with the graph."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest
from kfp import compiler
from pipeline_recipes import CAPTIONED, full_recipe

from mugv.platform import component_docs, generated
from mugv.recipe import Recipe
from mugv.stages.graph import build_graph, of_shards
from pipelines.common import COMPONENTS, load_component

NAMES = component_docs.names()


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return full_recipe(curation=CAPTIONED)


def test_no_stage_of_the_graph_is_without_a_component(recipe: Recipe) -> None:
    stages = {node.stage for node in build_graph(recipe)}
    assert stages == set(COMPONENTS)
    assert {folder for folder, _ in COMPONENTS.values()} | {"resolve_data", "compare_data", "hold", "finish"} == set(NAMES)


def test_a_component_never_lacks_an_input_that_its_node_has(recipe: Recipe) -> None:
    for node in build_graph(recipe):
        folder, output = COMPONENTS[node.stage]
        spec = load_component(folder).component_spec
        handed = {name for name in node.inputs if not of_shards(name)} or ({"scan"} if node.stage == "curate" else set())
        wanted = handed | {"recipe", "roots"}
        assert wanted <= set(spec.inputs), node.name
        required = {name for name, s in spec.inputs.items() if not s.optional} - {"index"}
        assert required <= wanted, f"{node.name} would be started without {required - wanted}"
        assert output in spec.outputs


@pytest.mark.parametrize("name", NAMES)
def test_a_component_that_does_not_compile_is_noticed(name: str, tmp_path) -> None:
    component = load_component(name)
    compiler.Compiler().compile(component, str(tmp_path / "ir.yaml"))
    assert f"exec-{name.replace('_', '-')}" in (tmp_path / "ir.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_component_neither_installs_packages_nor_holds_logic(name: str) -> None:
    component = load_component(name)
    text = "".join(component.component_spec.implementation.container.command)
    assert "pip install" not in text
    assert "-python:" in component.component_spec.implementation.container.image
    tree = ast.parse(inspect.getsource(importlib.import_module(f"components.{name}.component")))
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef))
    assert len(function.body) <= 8, "the work belongs into mugv/stages"
    top = {n.module for n in tree.body if isinstance(n, ast.ImportFrom)}
    assert top <= {"kfp", "kfp.dsl", "typing"}, "only what the image of any component has may be imported at the top"


@pytest.mark.parametrize("name", NAMES)
def test_every_input_and_output_is_described(name: str) -> None:
    rows = [line for line in component_docs.render(name).splitlines() if line.startswith("| `")]
    assert rows
    assert not [row for row in rows if row.rstrip("| ").endswith("`") and row.count("|") < 5]
    assert not [row for row in rows if row.split("|")[-2].strip() == ""]


def test_a_stale_readme_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    assert component_docs.main(["--check"]) == 0, capsys.readouterr().out
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    component_docs.main([])
    readme = tmp_path / "components" / "scan" / "README.md"
    readme.write_text(readme.read_text() + "edited\n")
    assert component_docs.main(["--check"]) == 1
    assert "stale: components/scan/README.md;" in capsys.readouterr().out


def test_metadata_without_a_stability_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "metadata.yaml").write_text(
        "name: x\nstability: finished\ndependencies: {a: []}\ntags: [t]\nlastVerified: 2026-01-01\n"
    )
    monkeypatch.setattr(component_docs, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="stability one of"):
        component_docs.read_metadata("x")
