"""Quantities and names of `resources` that a cluster would refuse after an hour in the queue are refused at once, by their key."""

from __future__ import annotations

import pytest
from pipeline_recipes import minimal_tree

from mugv.errors import UserError
from mugv.recipe import load_recipe, recipe_from_json, recipe_to_json
from mugv.recipe.load import _validate


def of(resources: dict[str, object]) -> str:
    recipe = _validate({**minimal_tree(), "resources": resources}, "recipe", {})
    assert recipe_from_json(recipe_to_json(recipe)) == recipe
    return f"{recipe.resources.data.cpu} {recipe.resources.data.memory}"


@pytest.mark.parametrize(
    ("pool", "key"),
    [
        *(({"cpu": value}, "cpu") for value in ("two", "-1", -1, 0, "0", "1.2345", True, "", "2 ", "1e3", "\u0663")),
        *(({"memory": value}, "memory") for value in ("64GB", "-8G", "8 G", "0", 8, "8", "1.5G", ".5G", "8g", "", False)),
        *(({"gpus": value}, "gpus") for value in (-1, "two", 1.5, True)),
        *(({"shared_memory": value}, "shared_memory") for value in ("1TB", -1)),
        *(({"devices": {"rdma/ib": value}}, "devices") for value in (0, -1, "none")),
        ({"node_selector": {"a b": "c"}}, "node_selector"),
        ({"node_selector": {"pool": "no blanks"}}, "node_selector"),
        ({"tolerations": [{"key": "a", "value": "b"}]}, "tolerations"),
        ({"tolerations": [{"key": "a", "operator": "Equal"}]}, "tolerations"),
    ],
)
def test_a_quantity_that_is_none_is_one_line_with_its_key(pool: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=rf"resources\.data\.{key}") as caught:
        of({"data": pool})
    assert "\n" not in str(caught.value)


def test_what_yaml_reads_as_a_number_is_taken() -> None:
    assert of({"data": {"cpu": 4, "memory": "8Gi"}}) == "4 8Gi"
    assert of({"data": {"cpu": 0.5, "memory": 8_000_000_000}}) == "0.5 8000000000"
    assert load_recipe("configs/tiny.yaml", ["resources.train.cpu=96"]).resources.train.cpu == "96"
