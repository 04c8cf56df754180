"""Megatron's distributed format (torch_dist) without process groups: read and written a tensor at a time.

megatron's own `dist_checkpointing.load` and `save` read and write the same folders under any layout; here one process handles
tensors whole, so that peak memory is a few times the largest tensor.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from mugv.errors import UserError
from mugv.training.convert.state import LazyState, Stored

_FORMAT = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", "common_backend_version": 1}


def open_distributed(folder: Path) -> LazyState:
    """The tensors of a distributed checkpoint, whole, however they were sharded. Raises UserError when it cannot be read."""
    reader = FileSystemReader(folder)
    try:
        metadata = reader.read_metadata()
    except (OSError, EOFError, pickle.UnpicklingError, ImportError, AttributeError, IndexError) as error:
        raise UserError(f"{folder}: not a distributed checkpoint: {str(error)[:160]}") from None
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
    """Write one shard a tensor into `folder`, which is made; `content` is megatron's content metadata."""
    folder.mkdir(parents=True)
    empty = {name: torch.empty(s.shape, dtype=s.dtype, device="meta") for name, s in state.stored.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        save(empty, storage_writer=_Writer(folder), planner=_Planner(state), no_dist=True)
    torch.save({"content_metadata": content}, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps(_FORMAT))


class _Planner(DefaultSavePlanner):
    """Plans with tensors of the meta device and reads the real one when it is written."""

    def __init__(self, state: LazyState) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.state = state

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self.state[write_item.index.fqn].contiguous()


class _Writer(FileSystemWriter):
    """torch's own write_data (2.13) holds every tensor of a file until the file is closed; this one lets each go."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        name = f"{plan.storage_data.prefix}0.distcp"
        results = []
        with (Path(self.path) / name).open("wb") as file:
            for item in plan.items:
                offset = file.tell()
                torch.save(planner.resolve_data(item), file)
                length = file.tell() - offset
                results.append(WriteResult(item.index, length, _StorageInfo(name, offset, length)))
            file.flush()
            os.fsync(file.fileno())
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future
