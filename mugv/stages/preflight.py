"""What a recipe asks and this version, or this machine, cannot do: said before the first stage, not by the one that meets it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from mugv.errors import MissingFeatureError
from mugv.recipe import Recipe
from mugv.stages.placement import many_nodes, nodes

PACKAGES = {"flash": "flash_attn", "te": "transformer_engine"}


def check(recipe: Recipe, here: bool) -> None:
    """MissingFeatureError with all that stands in the way. `here`: the stages are to run on this machine."""
    found = obstacles(recipe, here)
    if found:
        raise MissingFeatureError(f"this version cannot run the recipe{' here' if here else ''}: {'; '.join(found)}")


def obstacles(recipe: Recipe, here: bool) -> list[str]:
    """A sentence each, with the key; [] where nothing is known to stand in the way. Raises UserError for a label file with a mistake."""
    if recipe.align and recipe.align.labels and Path(recipe.align.labels).is_file():
        from mugv.training.labels import read_labels

        read_labels(Path(recipe.align.labels))
    return [*_of_this_version(recipe), *(_of_this_machine(recipe) if here else ())]


def _of_this_version(recipe: Recipe) -> Iterator[str]:
    train, layout = recipe.vae.train, recipe.parallel
    if train.perceptual_weight > 0 and not recipe.weights.vae:
        yield f"vae.train.perceptual_weight {train.perceptual_weight:g} needs an image network that is no part of this package; set it to 0"
    if layout.attention not in ("auto", "sdpa") and layout.precision == "fp32":
        yield f"parallel.attention {layout.attention} takes 16-bit numbers, and parallel.precision is fp32; use sdpa"


def _of_this_machine(recipe: Recipe) -> Iterator[str]:
    import torch

    layout = recipe.parallel
    gpus = torch.cuda.device_count()
    needed = nodes(recipe)
    if needed > 1:
        yield many_nodes(recipe, needed)
    elif gpus and layout.world > gpus:
        yield f"parallel.world {layout.world} needs as many GPUs, and this machine has {gpus}"
    if layout.attention not in ("auto", "sdpa"):
        package = PACKAGES.get(layout.attention)
        if not gpus:
            yield f"parallel.attention {layout.attention} needs a GPU; use auto or sdpa"
        elif package and importlib.util.find_spec(package) is None:
            yield f"parallel.attention {layout.attention} needs the package {package} (pip install 'mugv[gpu]')"
    if recipe.curation.motion.method == "raft" and importlib.util.find_spec("torchvision") is None:
        yield "curation.motion.method raft needs torchvision (pip install 'mugv[raft]')"
    for key, name, kind in (
        ("text.path", recipe.text.path, recipe.text.kind == "t5"),
        ("curation.caption.model", recipe.curation.caption.model, recipe.curation.caption.kind == "transformers"),
    ):
        # Else it may be a name on the hub.
        if kind and name and name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
            yield f"{key}: {name} is no folder"
