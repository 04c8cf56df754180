"""Rules between sections of a recipe. Each message names the key and what is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mugv.redact import has_secrets, redact

if TYPE_CHECKING:
    from mugv.recipe.schema import AlignRound, Optimizer, Recipe, TrainStage


def check_recipe(recipe: Recipe) -> None:
    """Raise ValueError at the first rule that is broken."""
    _check_secrets(recipe)
    _check_channels(recipe)
    _check_layout(recipe)
    _check_nodes(recipe)
    _check_widths(recipe)
    _check_gate(recipe)
    _check_vae(recipe)
    _check_curation(recipe)
    _check_clamps(recipe)
    stages: list[tuple[str, TrainStage]] = [(f"pretrain.{s.name}", s) for s in recipe.pretrain]
    if recipe.sft:
        stages.append(("sft", recipe.sft))
    names = [s.name for s in recipe.pretrain]
    if len(set(names)) != len(names):
        raise ValueError(f"pretrain: stage names must differ, got {names}")
    for key, stage in stages:
        _check_stage(recipe, key, stage)
        _check_warm_up(key, stage)
        _check_optimizer(recipe, key, stage.optimizer, bool(stage.lora))
        _check_micro_batches(recipe, key, stage.batch, any(getattr(stage, "image_fraction", ())))
    for i, round_ in enumerate(recipe.align.rounds if recipe.align else ()):
        _check_round(recipe, f"align.rounds.{i}", round_.batch)
        _check_warm_up(f"align.rounds.{i}", round_)
        _check_micro_batches(recipe, f"align.rounds.{i}", round_.batch, images=False)
        _check_optimizer(recipe, f"align.rounds.{i}", round_.optimizer)


def _check_secrets(recipe: Recipe) -> None:
    """A recipe goes whole into records, compiled pipelines and the tracker."""
    for key, text in _texts("", recipe.model_dump(mode="json", by_alias=True)):
        if "//" in text and has_secrets(text):
            raise ValueError(f"{key}: {redact(text)} holds a password, a key or a signature; give it by the environment, not in the recipe")


def _texts(key: str, tree: Any) -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        yield key, tree
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from _texts(f"{key}.{name}".lstrip("."), value)


def _check_channels(recipe: Recipe) -> None:
    if recipe.vae.model.latent_channels != recipe.dit.latent_channels:
        raise ValueError(
            f"dit.latent_channels {recipe.dit.latent_channels} must equal vae.model.latent_channels {recipe.vae.model.latent_channels}"
        )


def _check_layout(recipe: Recipe) -> None:
    layout, model = recipe.parallel, recipe.dit
    widest = 1
    for stage in recipe.pretrain:
        widest *= stage.expand.factor if stage.expand else 1
    for heads in {model.heads, model.heads // widest}:
        if heads % layout.tensor:
            raise ValueError(f"parallel.tensor {layout.tensor} does not divide dit.heads {heads}{_before(heads, model.heads)}")
        if layout.context_method == "ulysses" and heads // layout.tensor % layout.context:
            raise ValueError(
                f"parallel.context {layout.context} does not divide the {heads // layout.tensor} heads of a tensor rank"
                f"{_before(heads, model.heads)}: context_method must be gather or auto"
            )
    parts = layout.pipeline * layout.virtual_pipeline
    if model.layers % parts:
        raise ValueError(
            f"parallel: pipeline {layout.pipeline} x virtual_pipeline {layout.virtual_pipeline} does not divide {model.layers} layers"
        )


def _before(heads: int, final: int) -> str:
    return "" if heads == final else " before the expansions"


def _check_micro_batches(recipe: Recipe, key: str, clips: int, images: bool) -> None:
    """Interleaved pipelining runs micro-batches in groups of the pipeline's size (megatron refuses other counts)."""
    layout = recipe.parallel
    if layout.virtual_pipeline == 1:
        return
    local = clips // layout.data
    if images and not layout.pack:
        raise ValueError(
            f"{key}.image_fraction: with virtual_pipeline {layout.virtual_pipeline}, images and videos need parallel.pack: true"
        )
    if layout.micro_batch is None or local % (layout.micro_batch * layout.pipeline):
        raise ValueError(
            f"{key}.batch {clips}: {local} clips a rank in micro-batches of {layout.micro_batch or local} (parallel.micro_batch) "
            f"must be a multiple of pipeline {layout.pipeline} micro-batches for virtual_pipeline {layout.virtual_pipeline}"
        )


def _check_warm_up(key: str, stage: TrainStage | AlignRound) -> None:
    warmup = stage.optimizer.warmup_steps
    if warmup >= stage.steps:
        raise ValueError(
            f"{key}.optimizer.warmup_steps {warmup} would end the stage below its learning rate: must be fewer than the {stage.steps} steps"
        )


def _check_optimizer(recipe: Recipe, key: str, optimizer: Optimizer, lora: bool = False) -> None:
    """Muon orthogonalises whole matrices: a rank that holds a part of one would compute something else."""
    if optimizer.muon is None:
        return
    layout = recipe.parallel
    if layout.tensor > 1 or layout.distributed_optimizer:
        raise ValueError(f"{key}.optimizer.muon needs parallel.tensor 1 and no parallel.distributed_optimizer; leave muon out for Adam")
    if lora:
        raise ValueError(f"{key}.optimizer.muon: adapters are no whole matrices; leave muon out where lora is set")


JUDGED = ("real", "vae_reconstruction", "t2v_seen", "t2v_held_out", "i2v")
"""Columns of the judge's table, and what it says of each; mugv.evaluation measures them."""
SAID = ("colour", "shape", "direction", "all", "steady")
UNJUDGED = ("vae_psnr", "vae_ssim", "validation_flow_loss")


def _check_gate(recipe: Recipe) -> None:
    judge, gate = recipe.evaluate.judge, recipe.register_.gate
    known = {*UNJUDGED, *(f"{column}_{name}" for column in JUDGED for name in SAID if judge == "shapes")}
    compared = [gate.compare] if gate.compare not in (None, "auto") else []
    for key, names in (("minimum", list(gate.minimum)), ("maximum", list(gate.maximum)), ("compare", compared)):
        unknown = [name for name in names if name not in known]
        if unknown:
            columns = f", and of {', '.join(JUDGED)} each with {', '.join(f'_{name}' for name in SAID)}" if judge == "shapes" else ""
            measured = f"{', '.join(UNJUDGED)}{columns}"
            raise ValueError(f"register.gate.{key}: evaluate.judge {judge} gives no {unknown[0]}; it gives {measured}")
    for name in gate.minimum.keys() & gate.maximum.keys():
        if gate.minimum[name] > gate.maximum[name]:
            raise ValueError(f"register.gate: minimum {gate.minimum[name]:g} of {name} must not exceed its maximum {gate.maximum[name]:g}")


def _check_vae(recipe: Recipe) -> None:
    """What the phases of VAE training would otherwise say hours later, when the clips are there."""
    train, frames = recipe.vae.train, recipe.curation.clip.frames
    if not train.phases and not recipe.weights.vae:
        raise ValueError("vae.train.phases is empty: give phases, or a trained VAE as weights.vae")
    for i, phase in enumerate(train.phases):
        key = f"vae.train.phases.{i}"
        if phase.size % 16:
            raise ValueError(f"{key}.size must be a multiple of 16, got {phase.size}")
        longest = max(phase.windows)
        if phase.parts != "spatial" and 8 * longest > frames + 7:
            raise ValueError(
                f"{key}.windows: {longest} latents are {8 * longest} frames, curation.clip.frames {frames} give {(frames + 7) // 8} at most"
            )
    first = next((i for i, phase in enumerate(train.phases) if phase.parts == "temporal"), None)
    if train.linear_start and first is not None and set(train.phases[first].windows) != {1}:
        raise ValueError(f"vae.train.linear_start needs vae.train.phases.{first}.windows: [1], got {list(train.phases[first].windows)}")


def _check_curation(recipe: Recipe) -> None:
    curation = recipe.curation
    if curation.aesthetic.head is not None and curation.aesthetic.clip is None:
        raise ValueError("curation.aesthetic.head: the head scores CLIP embeddings; set aesthetic.clip to the model's folder too")
    if curation.motion.method == "raft" and curation.motion.weights is None:
        raise ValueError("curation.motion.weights: raft needs a file with torchvision's raft_small or raft_large")


def _check_clamps(recipe: Recipe) -> None:
    samplers = {"evaluate.sampler": recipe.evaluate.sampler} | ({"align.sampler": recipe.align.sampler} if recipe.align else {})
    for key, sampler in samplers.items():
        beyond = [channel for channel in sampler.dynamic_clamp if channel >= recipe.dit.latent_channels]
        if beyond:
            raise ValueError(f"{key}.dynamic_clamp: there is no channel {beyond[0]}; latents have 0 to {recipe.dit.latent_channels - 1}")


def _check_round(recipe: Recipe, key: str, batch: int) -> None:
    """Good and bad candidates are dealt to the ranks apart, at least one of each: a remainder would never be seen."""
    ranks = recipe.parallel.data
    if ranks > 1 and batch != ranks and batch % (2 * ranks):
        why = f"good and bad candidates for each of {ranks} data-parallel ranks"
        raise ValueError(f"{key}.batch {batch} must be {ranks} or a multiple of {2 * ranks}: {why}")


def _check_nodes(recipe: Recipe) -> None:
    world, resources = recipe.parallel.world, recipe.resources
    for name, pool in (("vae", resources.vae), ("train", resources.train)):
        if pool.gpus and resources.gpus_per_node > pool.gpus:
            raise ValueError(
                f"resources.gpus_per_node {resources.gpus_per_node} is more than resources.{name}.gpus {pool.gpus}: "
                "each training process takes a GPU of its own"
            )
        node = resources.gpus_per_node or pool.gpus or world
        if world > node and world % node:
            raise ValueError(
                f"parallel.world {world} does not fill nodes of {node} processes (resources.gpus_per_node, resources.{name}.gpus)"
            )


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
