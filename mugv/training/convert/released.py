"""`mugv convert`: the published single file to a checkpoint folder (megatron's distributed format and config.json) and back.

Peak memory is a few times the largest tensor, whatever the size of the network. The target appears under its name when it is whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from mugv.dit import release
from mugv.errors import UserError
from mugv.recipe.models import DiTModel, TextEncoder
from mugv.recipe.schema import Flow, Recipe
from mugv.store import explained
from mugv.training.convert.differences import Difference, MismatchError, compare
from mugv.training.convert.distributed import open_distributed, write_distributed
from mugv.training.convert.files import SUFFIXES, open_file, write_file
from mugv.training.convert.state import LazyState, Stored

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
Writer = Callable[[Path, LazyState], None]


@dataclass(frozen=True)
class Options:
    """dtype: what tensors become (unset: they stay as they are). allow: names that may be unexpected (left out) or, for norms,
    missing (then they are the identity). recipe: the size and the settings that a released file must fit."""

    dtype: Literal["bf16", "fp16", "fp32"] | None = None
    allow: tuple[str, ...] = ()
    recipe: Recipe | None = None
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


def convert(source: Path, target: Path, options: Options = Options()) -> Report:
    """A file becomes a folder, a folder becomes a file. Raises MismatchError with every tensor that does not fit, UserError otherwise."""
    if source.is_dir():
        return _folder_to_file(source, target, options)
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder; give a .safetensors or .pt file, or a checkpoint folder")
    return _file_to_folder(source, target, options)


def _file_to_folder(source: Path, target: Path, options: Options) -> Report:
    state = open_file(source)
    if target.suffix in SUFFIXES:
        raise UserError(f"{target}: a file is converted to a checkpoint folder; give a name without {target.suffix}")
    model, text_width = _size_of(options.recipe) if options.recipe else release.infer_size(state.shapes)
    rules = release.rules(model, text_width)
    expected = {rule.released: rule.released_shape for rule in rules}
    exceptions = _exceptions(source, state, expected, options.allow)
    by_name = {rule.ours: rule for rule in rules}
    stored = {rule.ours: Stored(rule.shape, _dtype(state, rule.released)) for rule in rules}

    def read(name: str) -> Tensor:
        rule = by_name[name]
        return release.to_ours(rule, _tensor(state, rule.released, rule.released_shape), model.heads)

    description = describe(model, text_width, options.recipe) | {"source": source.name, "exceptions": exceptions}

    def write(path: Path, ready: LazyState) -> None:
        write_distributed(path / "model", ready, {})
        (path / "config.json").write_text(json.dumps(description, indent=1))

    return _write(target, LazyState(stored, read), exceptions, options, write)


def _folder_to_file(source: Path, target: Path, options: Options) -> Report:
    if target.suffix not in SUFFIXES:
        raise UserError(f"{target}: a folder is converted to a single file; its name must end in {', '.join(SUFFIXES)}")
    model, text_width = _size_in_folder(source)
    state = open_distributed(source / "model")
    rules = release.rules(model, text_width)
    exceptions = _exceptions(source / "model", state, {rule.ours: rule.shape for rule in rules}, options.allow)
    by_name = {rule.released: rule for rule in rules}
    stored = {rule.released: Stored(rule.released_shape, _dtype(state, rule.ours)) for rule in rules}

    def read(name: str) -> Tensor:
        rule = by_name[name]
        return release.to_released(rule, _tensor(state, rule.ours, rule.shape), model.heads)

    write = partial(write_file, suffix=target.suffix)
    return _write(target, LazyState(stored, read), exceptions, options, write)


def _write(
    target: Path, state: LazyState, exceptions: dict[str, str], options: Options, write: Callable[[Path, LazyState], None]
) -> Report:
    began, done = time.perf_counter(), 0
    ready = state.cast(DTYPES[options.dtype]) if options.dtype else state

    def seen(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if options.progress:
            options.progress(done, ready.nbytes)

    with _published(target, ready.nbytes) as temporary:
        write(temporary, ready.watched(seen))
    parameters = sum(torch.Size(shape).numel() for shape in ready.shapes.values())
    return Report(target, len(ready), parameters, ready.nbytes, time.perf_counter() - began, exceptions)


@contextmanager
def _published(target: Path, nbytes: int) -> Iterator[Path]:
    """A path beside the target that takes its name when the block ends well and is gone otherwise."""
    if target.exists():
        raise UserError(f"{target}: already there; remove it or give another name")
    temporary = target.absolute().with_name(f".{target.name}.writing")
    with explained(target):
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        free = shutil.disk_usage(temporary.parent).free
        if free < nbytes * 1.01:
            raise UserError(f"{target}: needs {nbytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on {temporary.parent}")
        try:
            yield temporary
            temporary.rename(target)
        finally:
            _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _exceptions(where: Path, state: LazyState, expected: dict[str, tuple[int, ...]], allow: tuple[str, ...]) -> dict[str, str]:
    """What is done about each tensor that does not match. Raises MismatchError for those that nothing allows."""
    differences = compare(state.shapes, expected)
    known = {d.name: d for d in differences}
    for name in allow:
        if name not in known:
            raise UserError(f"--allow {name}: nothing is wrong with a tensor of that name in {where}")
    out = {}
    refused = []
    for d in differences:
        reason = release.IGNORED.get(d.name) or ("allowed" if d.name in allow else None)
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


def _tensor(state: LazyState, name: str, shape: tuple[int, ...]) -> Tensor:
    if name in state:
        return state[name]
    return (torch.zeros if name.endswith("bias") else torch.ones)(shape, dtype=_dtype(state, name))


def _dtype(state: LazyState, name: str) -> torch.dtype:
    return (state.stored.get(name) or next(iter(state.stored.values()))).dtype


def _size_of(recipe: Recipe) -> tuple[DiTModel, int]:
    return recipe.dit, recipe.text.width


def _size_in_folder(folder: Path) -> tuple[DiTModel, int]:
    try:
        config = json.loads((folder / "config.json").read_text())
        model, divisor = DiTModel(**config["model"]), config["width_divisor"]
        width: int = config["text"]["width"]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = (str(error).splitlines() or [""])[0][:160]
        raise UserError(f"{folder}: no checkpoint folder; expected model/ and a config.json with the network's size: {reason}") from None
    return model.model_copy(update={"hidden": model.hidden // divisor, "heads": model.heads // divisor}), width


def describe(model: DiTModel, text_width: int, recipe: Recipe | None) -> dict[str, Any]:
    """config.json of a converted file: the recipe's settings, or the published ones (facts 3.2c, 9.1)."""
    stage = (recipe.sft or recipe.pretrain[-1]) if recipe else None
    text = recipe.text if recipe else TextEncoder(kind="t5" if text_width == TextEncoder().width else "hashed", width=text_width)
    published = model.latent_channels == len(release.LATENT_SHIFT)
    return {
        "model": model.model_dump(),
        "width_divisor": 1,
        "text": text.model_dump(),
        "latent_norm": {
            "shift": release.LATENT_SHIFT if published else (0.0,) * model.latent_channels,
            "scale": release.LATENT_SCALE if published else (1.0,) * model.latent_channels,
        },
        "size": stage.size if stage else (720, 1280),
        "frames": stage.frames if stage else 105,
        "fps": recipe.curation.clip.fps if recipe else 30.0,
        "flow": (stage.flow if stage else Flow()).model_dump(),
    }
