"""Rules between sections of a recipe. Each message names the key and what is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mugv.recipe.schema import Recipe, TrainStage


def check_recipe(recipe: Recipe) -> None:
    """Raise ValueError at the first rule that is broken."""
    _check_channels(recipe)
    _check_layout(recipe)
    _check_widths(recipe)
    stages: list[tuple[str, TrainStage]] = [(f"pretrain.{s.name}", s) for s in recipe.pretrain]
    if recipe.sft:
        stages.append(("sft", recipe.sft))
    names = [s.name for s in recipe.pretrain]
    if len(set(names)) != len(names):
        raise ValueError(f"pretrain: stage names must differ, got {names}")
    for key, stage in stages:
        _check_stage(recipe, key, stage)


def _check_channels(recipe: Recipe) -> None:
    if recipe.vae.model.latent_channels != recipe.dit.latent_channels:
        raise ValueError(
            f"dit.latent_channels {recipe.dit.latent_channels} must equal vae.model.latent_channels {recipe.vae.model.latent_channels}"
        )


def _check_layout(recipe: Recipe) -> None:
    layout = recipe.parallel
    if recipe.dit.heads % layout.tensor:
        raise ValueError(f"parallel.tensor {layout.tensor} does not divide dit.heads {recipe.dit.heads}")
    if recipe.dit.layers % layout.pipeline:
        raise ValueError(f"parallel.pipeline {layout.pipeline} does not divide dit.layers {recipe.dit.layers}")


def _check_widths(recipe: Recipe) -> None:
    shrink = 1
    for stage in recipe.pretrain[1:]:
        shrink *= stage.expand.factor if stage.expand else 1
    if recipe.pretrain[0].expand:
        raise ValueError(f"pretrain.{recipe.pretrain[0].name}.expand: the first stage has nothing to expand from")
    if recipe.dit.hidden % shrink or recipe.dit.heads % shrink:
        raise ValueError(f"pretrain: the expansions multiply widths by {shrink}, which must divide dit.hidden and dit.heads")


def _check_stage(recipe: Recipe, key: str, stage: TrainStage) -> None:
    if stage.size not in recipe.encode.sizes:
        raise ValueError(f"{key}.size {list(stage.size)} is not one of encode.sizes {[list(s) for s in recipe.encode.sizes]}")
    if stage.frames % 8 != 1 or stage.frames > recipe.curation.clip.frames:
        raise ValueError(f"{key}.frames must be 1 + 8k and at most curation.clip.frames {recipe.curation.clip.frames}, got {stage.frames}")
    if stage.batch % recipe.parallel.data:
        raise ValueError(f"{key}.batch {stage.batch} is not a multiple of the {recipe.parallel.data} data-parallel ranks")
