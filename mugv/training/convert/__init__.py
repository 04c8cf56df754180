"""`mugv convert`: published single files to our folders and back, one tensor in memory at a time.

Peak memory is a few times the largest tensor, whatever the size of the network. The target appears under its name when it is whole.
"""

from __future__ import annotations

from pathlib import Path

from mugv.errors import UserError
from mugv.training.convert import dit, vae
from mugv.training.convert.differences import Difference, MismatchError
from mugv.training.convert.distributed import open_distributed
from mugv.training.convert.dit import check_folder
from mugv.training.convert.files import SUFFIXES, open_file
from mugv.training.convert.state import LazyState
from mugv.training.convert.target import DTYPES, Options, Report

__all__ = ["DTYPES", "Difference", "LazyState", "MismatchError", "Options", "Report", "check_folder", "convert", "open_distributed"]


def convert(source: Path, target: Path, options: Options = Options()) -> Report:
    """A file becomes a folder, a folder becomes a file; whether it is a DiT or a VAE is read from it.

    Raises MismatchError with every tensor that does not fit, UserError otherwise.
    """
    if source.is_dir():
        if options.negative is not None:
            raise UserError("--negative belongs to the folder that a released DiT file becomes; give it to mugv generate")
        return _to_file(source, target, options)
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder; give a .safetensors or .pt file, or a checkpoint folder")
    state = open_file(source)
    if target.suffix in SUFFIXES:
        raise UserError(f"{target}: a file is converted to a checkpoint folder; give a name without {target.suffix}")
    if vae.is_vae(state) and options.negative is not None:
        raise UserError(f"{source}: is a VAE, which is not guided; --negative belongs to the DiT")
    return (vae if vae.is_vae(state) else dit).file_to_folder(source, state, target, options)


def _to_file(source: Path, target: Path, options: Options) -> Report:
    if target.suffix not in SUFFIXES:
        raise UserError(f"{target}: a folder is converted to a single file; its name must end in {', '.join(SUFFIXES)}")
    return (vae if vae.is_vae_folder(source) else dit).folder_to_file(source, target, options)
