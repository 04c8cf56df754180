"""What both converters share: what must match, and a target that appears under its name when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mugv.dit.release import IGNORED
from mugv.durable import sync
from mugv.errors import UserError
from mugv.recipe.schema import Recipe
from mugv.training.convert.differences import Difference, MismatchError, Shape, compare
from mugv.training.convert.state import LazyState

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
Writer = Callable[[Path, LazyState], None]


@dataclass(frozen=True)
class Options:
    """dtype: what tensors become (unset: they stay as they are). allow: names that may be unexpected (left out) or, for norms,
    missing (then they are the identity). recipe: the size and the settings that a released file must fit. negative: what guidance
    leads away from by default, which a DiT's folder then carries."""

    dtype: Literal["bf16", "fp16", "fp32"] | None = None
    allow: tuple[str, ...] = ()
    recipe: Recipe | None = None
    negative: str | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Report:
    """What was written. `exceptions`: name -> what was done about a tensor that did not match."""

    target: Path
    tensors: int
    parameters: int
    nbytes: int
    seconds: float
    exceptions: dict[str, str] = field(default_factory=dict)


def publish(
    target: Path, state: LazyState, exceptions: dict[str, str], options: Options, write: Writer, buffers: Collection[str] = ()
) -> Report:
    """Write the tensors to `target` in two phases; the report, which counts `buffers` as tensors but not as parameters."""
    began, done = time.perf_counter(), 0
    ready = state.cast(DTYPES[options.dtype]) if options.dtype else state

    def seen(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if options.progress:
            options.progress(done, ready.nbytes)

    with _published(target, ready.nbytes) as temporary:
        write(temporary, ready.watched(seen))
    parameters = sum(torch.Size(shape).numel() for name, shape in ready.shapes.items() if name not in buffers)
    return Report(target, len(ready), parameters, ready.nbytes, time.perf_counter() - began, exceptions)


@contextmanager
def _published(target: Path, nbytes: int) -> Iterator[Path]:
    """A path beside the target that takes its name when the block ends well and is gone otherwise."""
    if target.exists():
        raise UserError(f"{target}: already there; remove it or give another name")
    temporary = target.absolute().with_name(f".{target.name}.writing")
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        free = shutil.disk_usage(temporary.parent).free
        if free < nbytes * 1.01:
            raise UserError(f"{target}: needs {nbytes / 1e9:.3g} GB, {free / 1e9:.3g} GB are free on {temporary.parent}")
        yield temporary
        temporary.rename(target)
        sync(temporary.parent)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {os.strerror(error.errno or errno.EIO)}; nothing is left of it") from error
    except RuntimeError as error:
        # torch.save says so in its own words when a write falls short.
        raise UserError(f"{target}: cannot be written, most likely for want of space: {str(error).splitlines()[0]}") from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def exceptions_of(where: Path, state: LazyState, expected: dict[str, Shape], allow: tuple[str, ...]) -> dict[str, str]:
    """What is done about each tensor that does not match. Raises MismatchError for those that nothing allows."""
    differences = compare(state.shapes, expected)
    known = {d.name: d for d in differences}
    for name in allow:
        if name not in known:
            raise UserError(f"--allow {name}: nothing is wrong with a tensor of that name in {where}")
    out = {}
    refused = []
    for d in differences:
        reason = IGNORED.get(d.name) or ("allowed" if d.name in allow else None)
        if d.kind == "unexpected" and reason:
            out[d.name] = f"left out ({reason})"
        elif d.kind == "missing" and reason and _neutral(d):
            out[d.name] = "missing: set to the identity"
        else:
            refused.append(d)
    if refused:
        raise MismatchError(where, refused)
    return out


def _neutral(d: Difference) -> bool:
    """Norms were added to the published network in mid-training (facts 6.3): they alone have a value that changes nothing."""
    return "norm" in d.name


def tensor_of(state: LazyState, name: str, shape: Shape) -> Tensor:
    """The tensor, or the identity where exceptions_of let it be missing."""
    if name in state:
        return state[name]
    return (torch.zeros if name.endswith("bias") else torch.ones)(shape, dtype=dtype_of(state, name))


def dtype_of(state: LazyState, name: str) -> torch.dtype:
    """The tensor's type, or that of its neighbours where it is missing."""
    return (state.stored.get(name) or next(iter(state.stored.values()))).dtype
