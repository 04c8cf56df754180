"""Checkpoints in other formats, one tensor in memory at a time."""

from mugv.training.convert.differences import Difference, MismatchError
from mugv.training.convert.distributed import open_distributed
from mugv.training.convert.released import Options, Report, convert
from mugv.training.convert.state import LazyState

__all__ = ["Difference", "LazyState", "MismatchError", "Options", "Report", "convert", "open_distributed"]
