"""DiT checkpoints for later stages: `model/` in megatron's distributed format (any layout in, any out) and `config.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from mugv.dit.model import MugDiT
from mugv.errors import UserError
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel

SHARDING = {"distrib_optim_sharding_type": "fully_reshardable", "distrib_optim_fully_reshardable_mem_efficient": False}


def save_sharded(state: dict[str, Any], folder: Path) -> None:
    """Write a sharded state in megatron's distributed format; every rank calls it."""
    folder.mkdir(parents=True, exist_ok=True)
    dist_checkpointing.save(state, str(folder), content_metadata=SHARDING)


def save_model(model: MugDiT, folder: Path, description: dict[str, Any]) -> None:
    """A DiT checkpoint for later stages: `model/` in the distributed format and `config.json`."""
    save_sharded({"model": model.sharded_state_dict()}, folder / "model")
    (folder / "config.json").write_text(json.dumps(description, indent=1))


def load_model_weights(model: MugDiT, folder: Path) -> None:
    """Strict load of `model/` written by save_model, in any layout. Raises UserError when its tensors are not the model's."""
    _load_weights(model, folder / "model", "raise_all")


def load_state_weights(model: MugDiT, checkpoint: Path) -> None:
    """The weights alone of a training checkpoint that Engine.save wrote."""
    _load_weights(model, checkpoint / "state", "assume_ok_unexpected")


def _load_weights(model: MugDiT, folder: Path, strict: str) -> None:
    try:
        state = dist_checkpointing.load({"model": model.sharded_state_dict()}, str(folder), strict=strict)
    except (CheckpointingException, CheckpointException, KeyError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"checkpoint {folder}: does not fit the model of its config.json: {(lines or [''])[-1][:300]}") from None
    model.load_state_dict(state["model"])


def read_config(checkpoint: Path) -> dict[str, Any]:
    """config.json of a DiT checkpoint. Raises UserError when the folder holds none."""
    try:
        return json.loads((checkpoint / "config.json").read_text())
    except OSError:
        raise UserError(f"checkpoint {checkpoint}: no config.json; expected the folder that a training stage published") from None


def load_dit(checkpoint: Path, layout: Parallel | None = None) -> tuple[MugDiT, dict[str, Any]]:
    """The network of a checkpoint with its weights, and its configuration."""
    config = read_config(checkpoint)
    from mugv.training.engine import build_model

    model = build_model(DiTModel(**config["model"]), config["text"]["width"], config["width_divisor"], layout or Parallel(), 0)
    load_model_weights(model, checkpoint)
    return model.eval(), config
