"""Recipes that the tests of pipelines and components share."""

from __future__ import annotations

from typing import Any

from mugv.recipe import Recipe

_OPTIMIZER = {"learning_rate": 1e-3}
_STAGE = {"steps": 2, "batch": 2, "size": [48, 48], "frames": 17, "optimizer": _OPTIMIZER}
_ROUND = {"steps": 1, "batch": 2, "optimizer": _OPTIMIZER}
CAPTIONED = {"caption": {"kind": "endpoint", "url": "http://captions/v1", "model": "vlm"}}
"""Curation whose captions come from a model."""


def minimal_tree() -> dict[str, Any]:
    """A recipe with one pretraining stage and nothing optional."""
    return {
        "name": "Micro Test",
        "vae": {"train": {"phases": [{"parts": "joint", "steps": 2, "batch": 2, "learning_rate": 1e-3}]}},
        "encode": {"sizes": [[48, 48]]},
        "dit": {"layers": 2, "hidden": 48, "heads": 4},
        "pretrain": [{"name": "one", **_STAGE}],
    }


def minimal_recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate({**minimal_tree(), **sections})


def full_recipe(**sections: Any) -> Recipe:
    """A recipe with every kind of node: two pretraining stages, SFT, two alignment rounds."""
    second = {"name": "two", **_STAGE, "expand": {"factor": 2}}
    rounds = [{"method": "kto", **_ROUND}, {"method": "dpo", **_ROUND}]
    tree = {**minimal_tree(), "sft": _STAGE, "align": {"rounds": rounds}}
    tree["pretrain"] = [*tree["pretrain"], second]
    return Recipe.model_validate({**tree, **sections})
