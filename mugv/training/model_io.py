"""DiT checkpoints for later stages: `model/` in megatron's distributed format (any layout in, any out) and `config.json`."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeAlias

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from torch.distributed.checkpoint.api import CheckpointException

from mugv import digests
from mugv.dit.model import MugDiT
from mugv.dit.sharding import as_chunks, load_state, sharded_state
from mugv.errors import UserError
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel
from mugv.training.bucket_writer import by_threads
from mugv.training.checkpoint_files import damage, rank, seal
from mugv.training.convert import check_folder
from mugv.training.convert.trusted import only_data, read_metadata

SHARDING = {"distrib_optim_sharding_type": "fully_reshardable", "distrib_optim_fully_reshardable_mem_efficient": False}
_UNREADABLE = (
    CheckpointingException,
    CheckpointException,
    RuntimeError,
    ValueError,
    KeyError,
    OSError,
    EOFError,
    UnpicklingError,
    AttributeError,  # megatron 0.16.1, where common.pt is gone
)
Save: TypeAlias = AsyncRequest
"""A write that megatron's queue carries out while training goes on."""


def save_sharded(state: dict[str, Any], folder: Path, asynchronous: bool = False) -> list[Save]:
    """Write a sharded state in megatron's distributed format, every rank calls it; or return what will write it."""
    folder.mkdir(parents=True, exist_ok=True)
    request = by_threads(dist_checkpointing.save(state, str(folder), content_metadata=SHARDING, async_sharded_save=True))
    if asynchronous:
        return [request]
    request.execute_sync()
    return []


def save_model(model: MugDiT | Sequence[MugDiT], folder: Path, description: dict[str, Any]) -> None:
    """A DiT checkpoint for later stages: `model/` in the distributed format and `config.json`."""
    save_sharded({"model": sharded_state(as_chunks(model))}, folder / "model")
    _forget_try(folder / "model")
    seal(folder / "model")
    (folder / "config.json").write_text(json.dumps(description, indent=1))


def _forget_try(folder: Path) -> None:
    """torch writes the folder's name, a random id and the order in which its writers ended into `.metadata`: equal weights, equal files."""
    if rank() == 0:
        metadata = read_metadata(folder)
        metadata.storage_meta = None
        metadata.storage_data = dict(sorted(metadata.storage_data.items(), key=lambda entry: repr(entry[0])))
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def load_model_weights(model: MugDiT | Sequence[MugDiT], folder: Path) -> None:
    """Strict load of `model/` written by save_model, in any layout. Raises UserError when its tensors are not the model's, or not
    what was written."""
    digests.check(folder / "model", damage)
    chunks = as_chunks(model)
    load_state(chunks, load_sharded({"model": sharded_state(chunks)}, folder / "model", "raise_all")["model"])


def load_sharded(state: dict[str, Any], folder: Path, strict: str = "assume_ok_unexpected") -> dict[str, Any]:
    """The tensors that `state` asks for, from megatron's distributed format in any layout. UserError when they are not there."""
    try:
        with only_data(folder):
            found: dict[str, Any] = dist_checkpointing.load(state, str(folder), strict=strict)
    except _UNREADABLE as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (lines or [type(error).__name__])[-1].split(". This ")[0]
        raise UserError(f"checkpoint {folder}: damaged, or of another network: {reason[:300]}") from None
    return found


def read_config(checkpoint: Path) -> dict[str, Any]:
    """config.json of a DiT checkpoint. Raises UserError when the folder holds none, and names the tensors that it does not fit."""
    check_folder(checkpoint)
    return json.loads((checkpoint / "config.json").read_text())


def load_chunks(checkpoint: Path, layout: Parallel, dtype: torch.dtype | None = None) -> tuple[list[MugDiT], dict[str, Any]]:
    """This rank's parts of the network of a checkpoint, with their weights in `dtype` (unset: the layout's precision), and its
    configuration."""
    config = read_config(checkpoint)
    from mugv.training.engine import empty_chunks

    chunks = empty_chunks(DiTModel(**config["model"]), config["text"]["width"], config["width_divisor"], layout, dtype)
    load_model_weights(chunks, checkpoint)
    for chunk in chunks:
        chunk.eval()
    return chunks, config


def load_dit(checkpoint: Path, layout: Parallel | None = None) -> tuple[MugDiT, dict[str, Any]]:
    """The whole network of a checkpoint with its weights, and its configuration."""
    (model,), config = load_chunks(checkpoint, layout or Parallel())
    return model, config
