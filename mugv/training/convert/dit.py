"""MUG-DiT: the published single file to a checkpoint folder (megatron's distributed format and config.json) and back."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from mugv import digests
from mugv.dit import release
from mugv.dit.usage import PUBLISHED, Usage
from mugv.errors import UserError
from mugv.recipe.models import DiTModel, TextEncoder
from mugv.recipe.schema import Flow, Recipe
from mugv.training.convert.differences import MismatchError, compare
from mugv.training.convert.distributed import open_distributed, write_distributed
from mugv.training.convert.files import write_file
from mugv.training.convert.state import LazyState, Stored
from mugv.training.convert.target import Options, Report, dtype_of, exceptions_of, publish, tensor_of
from mugv.vae import RELEASED_SCALE, RELEASED_SHIFT


def file_to_folder(source: Path, state: LazyState, target: Path, options: Options) -> Report:
    """The size is the recipe's, or read from the tensors. Raises MismatchError with every tensor that does not fit it."""
    model, text_width = _size_of(options.recipe) if options.recipe else release.infer_size(state.shapes)
    rules = release.rules(model, text_width)
    expected = {rule.released: rule.released_shape for rule in rules}
    exceptions = exceptions_of(source, state, expected, options.allow)
    by_name = {rule.ours: rule for rule in rules}
    stored = {rule.ours: Stored(rule.shape, dtype_of(state, rule.released)) for rule in rules}

    def read(name: str) -> Tensor:
        rule = by_name[name]
        return release.to_ours(rule, tensor_of(state, rule.released, rule.released_shape), model.heads)

    description = describe(model, text_width, options) | {"source": source.name, "exceptions": exceptions}

    def write(path: Path, ready: LazyState) -> None:
        write_distributed(path / "model", ready, {})
        (path / "config.json").write_text(json.dumps(description, indent=1))

    return publish(target, LazyState(stored, read), exceptions, options, write)


def folder_to_file(source: Path, target: Path, options: Options) -> Report:
    """The size is that of the folder's config.json."""
    model, text_width = size_in_folder(source)
    digests.check(source / "model")
    state = open_distributed(source / "model")
    rules = release.rules(model, text_width)
    exceptions = exceptions_of(source / "model", state, {rule.ours: rule.shape for rule in rules}, options.allow)
    by_name = {rule.released: rule for rule in rules}
    stored = {rule.released: Stored(rule.released_shape, dtype_of(state, rule.ours)) for rule in rules}

    def read(name: str) -> Tensor:
        rule = by_name[name]
        return release.to_released(rule, tensor_of(state, rule.ours, rule.shape), model.heads)

    write = partial(write_file, suffix=target.suffix)
    return publish(target, LazyState(stored, read), exceptions, options, write)


def check_folder(folder: Path) -> None:
    """Raise MismatchError naming the first tensors of `model/` that are not those of config.json; no tensor is read."""
    differences = compare(open_distributed(folder / "model").shapes, release.own_shapes(*size_in_folder(folder)))
    if differences:
        raise MismatchError(folder, differences)


def _size_of(recipe: Recipe) -> tuple[DiTModel, int]:
    return recipe.dit, recipe.text.width


def size_in_folder(folder: Path) -> tuple[DiTModel, int]:
    """Size of the network of a checkpoint folder and its text width. Raises UserError when its config.json does not tell."""
    try:
        config = json.loads((folder / "config.json").read_text())
        model, divisor = DiTModel(**config["model"]), config["width_divisor"]
        width: int = config["text"]["width"]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = (str(error).splitlines() or [""])[0][:160]
        raise UserError(f"{folder}: no checkpoint folder; expected model/ and a config.json with the network's size: {reason}") from None
    return model.model_copy(update={"hidden": model.hidden // divisor, "heads": model.heads // divisor}), width


def describe(model: DiTModel, text_width: int, options: Options) -> dict[str, Any]:
    """config.json of a converted file: the recipe's settings, or those of the published script (facts 3.2c, 9.1).

    Its default picture stands upright: 1280 rows of 720 pixels. Its network is told 30 frames a second, its files play at 20.
    """
    recipe = options.recipe
    stage = (recipe.sft or recipe.pretrain[-1]) if recipe else None
    text = recipe.text if recipe else TextEncoder(kind="t5" if text_width == TextEncoder().width else "hashed", width=text_width)
    published = model.latent_channels == len(RELEASED_SHIFT)
    usage = (Usage() if recipe else PUBLISHED).model_copy(update={"negative": options.negative})
    return {
        "model": model.model_dump(),
        "width_divisor": 1,
        "text": text.model_dump(),
        "latent_norm": {
            "shift": RELEASED_SHIFT if published else (0.0,) * model.latent_channels,
            "scale": RELEASED_SCALE if published else (1.0,) * model.latent_channels,
        },
        "size": stage.size if stage else (1280, 720),
        "frames": stage.frames if stage else 105,
        "fps": recipe.curation.clip.fps if recipe else 30.0,
        "flow": (stage.flow if stage else Flow()).model_dump(),
        "usage": usage.model_dump(),
    }
