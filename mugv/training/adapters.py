"""LoRA adapters on disk, alone: `adapter.safetensors` with whole tensors, whatever layout trained them, and `adapter.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError

from mugv import digests
from mugv.dit.lora import attach, is_adapter
from mugv.dit.model import MugDiT
from mugv.dit.sharding import full_shape, shard, sharded_state
from mugv.errors import UserError
from mugv.recipe.schema import LoRA
from mugv.training.convert.distributed import open_distributed
from mugv.training.convert.files import open_file, write_safetensors
from mugv.training.model_io import save_sharded

WEIGHTS, SETTINGS = "adapter.safetensors", "adapter.json"


def adapter_state(chunks: Sequence[MugDiT]) -> dict[str, Any]:
    """Name -> megatron ShardedTensor of the adapters that this rank holds."""
    return {name: tensor for name, tensor in sharded_state(chunks).items() if is_adapter(name)}


def save_adapter(chunks: Sequence[MugDiT], folder: Path, settings: LoRA) -> None:
    """Write the adapters of all ranks into `folder`; every rank calls it."""
    sharded = folder / "adapter-shards"
    save_sharded(adapter_state(chunks), sharded)
    dist.barrier()
    if dist.get_rank() == 0:
        write_safetensors(folder / WEIGHTS, open_distributed(sharded))
        (folder / SETTINGS).write_text(json.dumps({"lora": settings.model_dump(), "base": _base(chunks[0])}, indent=1))
        shutil.rmtree(sharded)
        digests.write(folder, digests.compute(folder, [WEIGHTS]))
    dist.barrier()


@torch.no_grad()
def load_adapter(chunks: Sequence[MugDiT], folder: Path) -> LoRA:
    """Attach the adapters of `folder` to this rank's parts of a network. Raises UserError when they are not of this network."""
    settings, base = _read_settings(folder)
    own = _base(chunks[0])
    if base != own:
        raise UserError(f"adapter {folder}: made for a network of {_say(base)}; this one has {_say(own)}")
    digests.check(folder)
    state = open_file(folder / WEIGHTS)
    for chunk in chunks:
        attach(chunk, settings)
        for name, parameter in chunk.named_parameters():
            if is_adapter(name):
                if list(state.shapes.get(name, ())) != full_shape(parameter):
                    raise UserError(f"adapter {folder}: {name} must be {full_shape(parameter)}, found {list(state.shapes.get(name, ()))}")
                parameter.copy_(shard(state[name], parameter))
    return settings


def _read_settings(folder: Path) -> tuple[LoRA, dict[str, int]]:
    try:
        content = json.loads((folder / SETTINGS).read_text())
        return LoRA(**content["lora"]), content["base"]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"adapter {folder}: no readable {SETTINGS}: {(str(error).splitlines() or [''])[0][:160]}") from None


def _base(model: MugDiT) -> dict[str, int]:
    config = model.config
    return {"layers": config.num_layers, "hidden": config.hidden_size, "heads": config.num_attention_heads, "mlp": config.ffn_hidden_size}


def _say(base: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in base.items())
