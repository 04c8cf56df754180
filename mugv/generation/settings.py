"""What a checkpoint's config.json says about the network, read once and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mugv.dataset.latentset import LatentNorm
from mugv.dit.usage import Usage
from mugv.errors import UserError
from mugv.generation.given import check_frames, check_size
from mugv.recipe.flow import Sampler
from mugv.recipe.models import TextEncoder
from mugv.recipe.schema import Flow


@dataclass(frozen=True)
class Settings:
    """`size` in pixels (height, width), `frames` 1 + 8k, `fps` what the network is told."""

    norm: LatentNorm
    text: TextEncoder
    flow: Flow
    usage: Usage
    size: tuple[int, int]
    frames: int
    fps: float

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Settings:
        """Raises UserError, which names what is missing or wrong."""
        try:
            norm = LatentNorm(*(tuple(float(x) for x in config["latent_norm"][name]) for name in ("shift", "scale")))
            text, flow, usage = TextEncoder(**config["text"]), Flow(**config["flow"]), Usage(**config.get("usage", {}))
            height, width = (int(side) for side in config["size"])
            made = cls(norm, text, flow, usage, (height, width), int(config["frames"]), float(config["fps"]))
        except KeyError as error:
            raise UserError(f"config.json of the checkpoint: {error.args[0]} is missing") from None
        except (TypeError, ValidationError, ValueError) as error:
            raise UserError(f"config.json of the checkpoint: {' '.join(str(error).split())[:200]}") from None
        check_size(*made.size)
        check_frames(made.frames)
        return made


def evaluated_sampler(metrics: Path) -> Sampler:
    """The sampler of a metrics.json that the evaluation wrote. Raises UserError when it holds none."""
    try:
        return Sampler.model_validate(json.loads(metrics.read_text())["sampler"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{metrics}: holds no sampler of an evaluation: {' '.join(str(error).split())[:200]}") from None
