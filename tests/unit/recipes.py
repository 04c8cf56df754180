"""A small recipe with every stage, for tests of the platform: nothing in it is trained."""

from pathlib import Path

import yaml

from mugv.recipe import Recipe, load_recipe
from mugv.stages.graph import node_keys
from mugv.stages.roots import Roots

TREE = {
    "name": "test",
    "vae": {"train": {"phases": [{"parts": "spatial", "steps": 1, "batch": 1, "learning_rate": 0.1}]}},
    "encode": {"sizes": [[48, 48]]},
    "dit": {"layers": 2, "hidden": 48, "heads": 4},
    "pretrain": [
        {"name": "short", "steps": 2, "batch": 1, "size": [48, 48], "frames": 9, "optimizer": {"learning_rate": 0.1}},
        {
            "name": "long",
            "steps": 2,
            "batch": 1,
            "size": [48, 48],
            "frames": 17,
            "optimizer": {"learning_rate": 0.1},
            "expand": {"factor": 2},
        },
    ],
    "sft": {"steps": 2, "batch": 1, "size": [48, 48], "frames": 17, "optimizer": {"learning_rate": 0.1}},
    "align": {
        "rounds": [
            {"method": "kto", "steps": 1, "batch": 1, "optimizer": {"learning_rate": 0.1}},
            {"method": "dpo", "steps": 1, "batch": 1, "optimizer": {"learning_rate": 0.1}},
        ]
    },
}


def write_recipe(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(TREE))
    return path


def small_recipe(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(write_recipe(folder), overrides)


def keys_of(recipe: Recipe) -> dict[str, str]:
    """The key of every node, for the files that the recipe names as they are now."""
    return node_keys(recipe, Roots.of(recipe))
