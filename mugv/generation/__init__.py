"""Text (and image) to video from a checkpoint."""

from mugv.generation.generator import Generator

__all__ = ["Generator"]
