"""VideoVAE: the published vae.pt to a VAE folder (model.safetensors and config.json) and back. Both have the same names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from pydantic import ValidationError

from mugv import digests
from mugv.errors import UserError
from mugv.recipe.models import VAEModel
from mugv.training.convert.differences import Shape
from mugv.training.convert.files import open_file, write_file, write_safetensors
from mugv.training.convert.state import LazyState, Stored
from mugv.training.convert.target import Options, Report, dtype_of, exceptions_of, publish, tensor_of
from mugv.vae import VideoVAE
from mugv.vae.folder import CONFIG, WEIGHTS

BUFFERS = ("shift", "scale")
"""Tensors of the file that are constants, not parameters."""


def is_vae(state: LazyState) -> bool:
    """Whether a file's tensors are a VideoVAE's."""
    return any(name.startswith("spatial_vae.") for name in state)


def is_vae_folder(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()


def file_to_folder(source: Path, state: LazyState, target: Path, options: Options) -> Report:
    """The size is the recipe's, or the published one. Raises MismatchError with every tensor that does not fit it."""
    config = options.recipe.vae.model if options.recipe else VAEModel()

    def write(path: Path, ready: LazyState) -> None:
        path.mkdir()
        write_safetensors(path / WEIGHTS, ready)
        (path / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
        digests.write(path, digests.compute(path, [WEIGHTS]))

    checked, exceptions = _checked(source, state, config, options)
    return publish(target, checked, exceptions, options, write, BUFFERS)


def folder_to_file(source: Path, target: Path, options: Options) -> Report:
    """The size is that of the folder's config.json."""
    try:
        config = VAEModel.model_validate_json((source / CONFIG).read_text())
    except ValidationError as error:
        raise UserError(f"{source / CONFIG}: not the size of a VAE: {str(error).splitlines()[0]}") from None
    digests.check(source)
    checked, exceptions = _checked(source, open_file(source / WEIGHTS), config, options)
    return publish(target, checked, exceptions, options, partial(write_file, suffix=target.suffix), BUFFERS)


def _checked(source: Path, state: LazyState, config: VAEModel, options: Options) -> tuple[LazyState, dict[str, str]]:
    with torch.device("meta"):
        expected: dict[str, Shape] = {name: tuple(t.shape) for name, t in VideoVAE(config).state_dict().items()}
    exceptions = exceptions_of(source, state, expected, options.allow)
    stored = {name: Stored(shape, dtype_of(state, name)) for name, shape in expected.items()}
    return LazyState(stored, lambda name: tensor_of(state, name, expected[name])), exceptions
