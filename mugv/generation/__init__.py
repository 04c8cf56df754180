"""Text and given frames to video from a checkpoint."""

from mugv.generation.generator import Generator
from mugv.generation.given import Given

__all__ = ["Generator", "Given"]
