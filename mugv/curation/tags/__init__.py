"""Entities of a caption: subjects, actions and scenes, as `kind:word` (paper 2.1, step 8)."""

from mugv.curation.tags.rules import KINDS, normalise, tag

__all__ = ["KINDS", "normalise", "tag"]
