"""A distributed checkpoint's `.metadata` is a pickle that torch and megatron load without limits: it is read here first, by a list of
what it may name, so that a folder from elsewhere cannot run code.

Only classes of torch's checkpoint format, dtypes, layouts and paths may appear. Once a file has passed, loading the same bytes
again by `pickle.load` can do nothing else. Objects inside of the data files go through torch's own list (`weights_only`).
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata, planner
from torch.distributed.checkpoint.metadata import Metadata

from mugv.errors import UserError

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_ENUMERATIONS = (metadata._MEM_FORMAT_ENCODING, planner.WriteItemType)
_CLASSES = (
    *(metadata.Metadata, metadata.MetadataIndex, metadata.StorageMeta, metadata.TensorProperties),
    *(metadata.TensorStorageMetadata, metadata.BytesStorageMetadata, metadata.ChunkStorageMetadata),
    *(planner.SavePlan, planner.WriteItem, planner.TensorWriteData, planner.BytesIOWriteData),
    *(filesystem._StorageInfo, filesystem._StoragePrefix, *_ENUMERATIONS),
)
_ALLOWED = {
    *((cls.__module__, cls.__qualname__) for cls in _CLASSES),
    *(("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout")),
    *(("collections", "OrderedDict"), ("pathlib", "PosixPath"), ("pathlib", "PurePosixPath")),
    *(("builtins", kind) for kind in ("set", "frozenset", "list", "dict", "tuple", "slice")),
}
"""Each is what a plain `pickle.load` would find under the name: both loads are the same computation."""
_MEMBERS: dict[Any, Any] = {(kind, name): member for kind in _ENUMERATIONS for name, member in kind.__members__.items()}

# Whatever broken bytes make an unpickler or those constructors do.
_BROKEN: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, RuntimeError)
_BROKEN = (*_BROKEN, ImportError, OverflowError, MemoryError, AssertionError, pickle.UnpicklingError)


def read_metadata(folder: Path) -> Metadata:
    """`.metadata` of a distributed checkpoint. Raises UserError when it is absent, damaged, or holds what no checkpoint has."""
    found = _read(folder, folder / ".metadata")
    for beside in sorted(folder.glob("*.metadata")):
        if beside.name != ".metadata":
            _read(folder, beside)
    return found


@contextmanager
def only_data(folder: Path) -> Iterator[None]:
    """Inside, torch and megatron may load `folder`: its metadata was read by the list, and objects are loaded as data alone."""
    read_metadata(folder)
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _read(folder: Path, path: Path) -> Metadata:
    try:
        found = _Restricted(io.BytesIO(path.read_bytes())).load()
        _check(found)
    except FileNotFoundError:
        raise UserError(f"{folder}: not a distributed checkpoint: {path.name} is missing") from None
    except _NotDataError as error:
        raise UserError(f"{folder}: refused: {path.name} wants to run {error}, which no checkpoint needs") from None
    except _BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: not a distributed checkpoint: {path.name}: {reason[:160]}") from None
    return found


class _NotDataError(Exception):
    """The pickle names something that is no part of a checkpoint."""


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        dtype = module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.layout, torch.memory_format))
        if dtype or (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise _NotDataError(f"{module}.{name}")


def _member(owner: Any, name: Any) -> Any:
    """How some versions of Python pickle a member of an enumeration; any other attribute is a way out."""
    if isinstance(owner, type) and isinstance(name, str) and (owner, name) in _MEMBERS:
        return _MEMBERS[owner, name]
    raise _NotDataError("builtins.getattr")


def _check(found: Any) -> None:
    """The right kind, and data files that lie in the folder itself."""
    if not isinstance(found, Metadata) or not isinstance(found.state_dict_metadata, dict):
        raise ValueError(f"holds a {type(found).__name__}")
    places = found.storage_data if isinstance(found.storage_data, dict) else {}
    for info in places.values():
        name = getattr(info, "relative_path", None)
        if name is not None and not _is_plain(name):
            raise ValueError(f"data file {name!r} lies outside of the folder")


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", "..") and PurePath(name).name == name and "\\" not in name
