"""Megatron's distributed format (torch_dist) without process groups: read and written a tensor at a time.

megatron's own `dist_checkpointing.load` and `save` read and write the same folders under any layout; here one process handles
tensors whole, so that peak memory is a few times the largest tensor.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from mugv import digests
from mugv.durable import sync_tree
from mugv.errors import UserError
from mugv.training.convert.state import LazyState, Stored
from mugv.training.convert.trusted import read_metadata

_FORMAT = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", "common_backend_version": 1}
_DATA = "__0_0.distcp"


def open_distributed(folder: Path) -> LazyState:
    """The tensors of a distributed checkpoint, whole, however they were sharded. Raises UserError when it cannot be read."""
    metadata, reader = read_metadata(folder), FileSystemReader(folder)
    reader.set_up_storage_reader(metadata, True)
    stored = {
        name: Stored(tuple(entry.size), entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }

    def read(name: str) -> Tensor:
        target = torch.empty(stored[name].shape, dtype=stored[name].dtype)
        try:
            _read_into(name, target, reader, metadata)
        except (OSError, EOFError, RuntimeError, AssertionError, ValueError) as error:
            raise UserError(f"{folder}: {name} cannot be read: {(str(error).splitlines() or [''])[0][:160]}") from None
        return target

    return LazyState(stored, read)


def _read_into(name: str, target: Tensor, reader: FileSystemReader, metadata: Metadata) -> None:
    planner = DefaultLoadPlanner()
    planner.set_up_planner({name: target}, metadata, True)
    reader.read_data(planner.create_local_plan(), planner).wait()


def write_distributed(folder: Path, state: LazyState, content: dict[str, Any]) -> None:
    """Write one shard a tensor into `folder`, which is made; `content` is megatron's content metadata.

    torch.distributed.checkpoint.save would hold every tensor of a file until the file is closed (torch 2.13).
    """
    folder.mkdir(parents=True)
    places: dict[MetadataIndex, _StorageInfo] = {}
    with (folder / _DATA).open("wb") as file:
        for name, stored in state.stored.items():
            offset = file.tell()
            torch.save(state[name].contiguous(), file)
            places[MetadataIndex(name, torch.Size([0] * len(stored.shape)))] = _StorageInfo(_DATA, offset, file.tell() - offset)
        file.flush()
        os.fsync(file.fileno())
    torch.save({"content_metadata": content}, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps(_FORMAT))
    metadata = Metadata({name: _entry(stored) for name, stored in state.stored.items()}, storage_data=places)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    digests.write(folder, digests.compute(folder, digests.names_in(folder)))
    sync_tree(folder)


def _entry(stored: Stored) -> TensorStorageMetadata:
    size = torch.Size(stored.shape)
    whole = ChunkStorageMetadata(torch.Size([0] * len(size)), size)
    return TensorStorageMetadata(TensorProperties(stored.dtype), size, [whole])
