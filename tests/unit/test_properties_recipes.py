"""Whatever stands in a recipe or in --set: it is a recipe that can be planned, or one line says what is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from property_tools import damaged, few, outcome, values, words

from mugv.cli.plan import _rows
from mugv.recipe import Recipe, digest, load_recipe, recipe_from_json, recipe_to_json
from mugv.stages.graph import build_graph

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "configs" / f"{name}.yaml" for name in ("tiny", "footage", "mugv-10b", "mugv-10b-finetune")]
SHARDS = 100
"""Above it a plan is right but slow."""


def keys(tree: Any, above: str = "") -> list[str]:
    """Every dotted path of a recipe."""
    named = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = [above] if above else []
    for name, child in named:
        found += keys(child, f"{above}.{name}" if above else str(name))
    return found


KEYS = {path: keys(load_recipe(path).model_dump(mode="json", by_alias=True)) for path in FILES}
changes = st.sampled_from(FILES).flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.lists(
            st.tuples(st.one_of(st.sampled_from(KEYS[path]), words, st.sampled_from(KEYS[path]).map(lambda k: f"{k}.x")), values),
            min_size=1,
            max_size=3,
        ),
    )
)


def check(recipe: Recipe, state: Path) -> None:
    """What every recipe that is taken must bear."""
    assert recipe_from_json(recipe_to_json(recipe)) == recipe
    assert len(digest(recipe)) == 64
    assert len(build_graph(recipe)) >= 6
    if recipe.data.shards <= SHARDS and recipe.data.videos is None:
        outcome(lambda: list(_rows(recipe, state)))


@few(150)
@given(changes)
def test_any_value_at_any_key_is_planned_or_refused_in_one_line(case: tuple[Path, list[tuple[str, Any]]]) -> None:
    path, changed = case
    recipe = outcome(lambda: load_recipe(path, changed))
    if recipe:
        check(recipe, Path("/nonexistent"))


@few(150)
@given(st.sampled_from(FILES).flatmap(lambda path: st.tuples(st.just(path), st.sampled_from(KEYS[path]), st.text(max_size=30))))
def test_any_text_behind_set_is_taken_or_refused_in_one_line(case: tuple[Path, str, str]) -> None:
    path, key, text = case
    outcome(lambda: load_recipe(path, [f"{key}={text}"]))
    outcome(lambda: load_recipe(path, [text]))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipe") / "recipe.yaml"


@few(100)
@given(data=st.sampled_from(FILES).flatmap(lambda path: damaged(path.read_bytes())))
def test_a_damaged_recipe_file_is_taken_or_refused_in_one_line(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    recipe = outcome(lambda: load_recipe(file))
    if recipe:
        check(recipe, file.parent / "none")


@few(100)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))))
def test_a_file_of_anything_is_refused_in_one_line(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    assert outcome(lambda: load_recipe(file)) is None


@few(60)
@given(tree=st.dictionaries(words, values, max_size=4), name=st.sampled_from(FILES))
def test_keys_of_anything_beside_good_ones_are_refused_in_one_line(file: Path, tree: dict[str, Any], name: Path) -> None:
    good = yaml.safe_load(name.read_text())
    file.write_text(yaml.safe_dump({**good, **tree}, allow_unicode=False))
    outcome(lambda: load_recipe(file))
