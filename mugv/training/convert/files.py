"""Single checkpoint files (safetensors, torch.save) read and written a tensor at a time, by plain file reads and writes.

Nothing is memory-mapped: mapped pages would count as this process's memory until the system takes them back.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._subclasses import FakeTensorMode

from mugv.errors import UserError
from mugv.training.convert.state import LazyState, Stored

_WRAPPER = "state_dict"
"""A file may hold the state dict under this one name."""
SUFFIXES = (".safetensors", ".pt", ".pth")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def open_file(path: Path) -> LazyState:
    """The tensors of a single file. Raises UserError when it is not a checkpoint, is cut short, or holds what is no tensor."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a checkpoint file ends in {', '.join(SUFFIXES)}")
    try:
        return open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". This ")[0]
        raise UserError(f"{path}: not a readable checkpoint, or cut short: {reason[:160]}") from None


def write_file(path: Path, state: LazyState, suffix: str) -> None:
    """Write a file of the kind that `suffix` names."""
    if suffix == ".safetensors":
        write_safetensors(path, state)
    else:
        write_torch(path, state)


def open_safetensors(path: Path) -> LazyState:
    """The header is checked by the safetensors library, then tensors are read by their offsets."""
    with safe_open(path, framework="pt"):
        pass
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise UserError(f"{path}: {name} is of type {entry['dtype']}; expected one of {', '.join(_DTYPES)}")
    stored = {name: Stored(tuple(e["shape"]), _DTYPES[e["dtype"]]) for name, e in header.items()}

    def read(name: str) -> Tensor:
        return _read(path, 8 + length + header[name]["data_offsets"][0], stored[name])

    return LazyState(stored, read)


def write_safetensors(path: Path, state: LazyState) -> None:
    """Byte for byte the file that safetensors.torch.save_file writes with metadata {"format": "pt"}."""
    names = sorted(state.stored, key=lambda n: (-state.stored[n].dtype.itemsize, n))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        stored = state.stored[name]
        begin, end = end, end + stored.nbytes
        header[name] = {"dtype": _NAMES[stored.dtype], "shape": list(stored.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bytes(state[name]))
        _flush(file)


def open_torch(path: Path) -> LazyState:
    """A file of torch.save: its pickle is read without the data (fake tensors), which gives every tensor's place in the file."""
    with FakeTensorMode():
        state = torch.load(path, weights_only=True, map_location="cpu")
    if isinstance(state, dict) and list(state) == [_WRAPPER]:
        state = state[_WRAPPER]
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path}: holds a {type(state).__name__}, not a state dict (name -> tensor)")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: {name} is a {type(value).__name__}; expected a flat state dict (name -> tensor)")
    stored = {name: Stored(tuple(t.shape), t.dtype) for name, t in state.items()}
    places = {name: _place(t) for name, t in state.items()}
    strides = {name: t.stride() for name, t in state.items()}

    def read(name: str) -> Tensor:
        shape, stride = stored[name].shape, strides[name]
        span = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if 0 not in shape else 0
        flat = _read(path, places[name], Stored((span,), stored[name].dtype))
        return flat.as_strided(shape, stride)

    return LazyState(stored, read)


def write_torch(path: Path, state: LazyState) -> None:
    """A file that torch.load reads as a state dict: torch lays it out with empty storages, which are then filled in place."""
    with FakeTensorMode():
        empty = {name: torch.empty(s.shape, dtype=s.dtype) for name, s in state.stored.items()}
    with path.open("wb") as file, torch.serialization.skip_data(materialize_fake_tensors=True), warnings.catch_warnings():
        torch.save(empty, file)
    with FakeTensorMode():
        places = {name: _place(t) for name, t in torch.load(path, weights_only=True).items()}
    with path.open("r+b") as file:
        for name in state:
            file.seek(places[name])
            file.write(_bytes(state[name]))
        _flush(file)


def _place(fake: Tensor) -> int:
    offset = fake.untyped_storage()._checkpoint_offset
    assert offset is not None
    return offset + int(fake.storage_offset()) * fake.dtype.itemsize


def _read(path: Path, offset: int, stored: Stored) -> Tensor:
    tensor = torch.empty(stored.shape, dtype=stored.dtype)
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        view, done = memoryview(_bytes(tensor)), 0
        while done < stored.nbytes:
            count = file.readinto(view[done:])
            if not count:
                raise UserError(f"{path}: ends {stored.nbytes - done} bytes too early")
            done += count
    return tensor


def _bytes(tensor: Tensor) -> Any:
    """The tensor's own memory (no copy where it is contiguous)."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
