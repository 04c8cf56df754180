"""RAFT optical flow (Teed and Deng 2020) by torchvision, the optional extra `raft`; weights by path."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mugv.curation.scores.base import short_reason
from mugv.errors import UserError
from mugv.precision import here
from mugv.recipe.curation import Motion as Settings
from mugv.store.carried import local_path

GRID = 8
"""Sides of RAFT's input are multiples of this."""
LEAST = 128
"""And at least this: its coarsest correlation map is an eighth of an eighth."""


def raft_flow(settings: Settings) -> Callable[[np.ndarray, np.ndarray], float]:
    """Mean length of the flow between two uint8 [h, w, 3] pictures, pixels. Raises UserError without torchvision or weights."""
    if importlib.util.find_spec("torchvision") is None:
        raise UserError("curation.motion.method raft: needs torchvision, which the extra `raft` installs; or set it to dis")
    weights = local_path(settings.weights) if settings.weights else None
    if weights is None or not weights.is_file():
        raise UserError(f"curation.motion.weights: no file {settings.weights}; raft needs torchvision's raft_small or raft_large")
    return _Raft(weights)


class _Raft:
    def __init__(self, weights: Path) -> None:
        import torch

        self.torch = torch
        self.device = torch.device(here())
        self.network = _load(weights).to(self.device).eval()

    def __call__(self, first: np.ndarray, second: np.ndarray) -> float:
        height, width = first.shape[:2]
        size = tuple(max(LEAST, round(v / GRID) * GRID) for v in (width, height))
        torch = self.torch
        pair = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR) for picture in (first, second)])
        x_BCHW = torch.from_numpy(pair).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            flow_CHW = self.network(x_BCHW[:1], x_BCHW[1:])[-1][0]
        scale = torch.tensor([width / size[0], height / size[1]], device=self.device)
        return float((flow_CHW * scale[:, None, None]).norm(dim=0).mean())


def _load(weights: Path) -> Any:
    import torch
    from torchvision.models.optical_flow import raft_large, raft_small

    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network = (raft_large if any(key.startswith("mask_predictor") for key in state) else raft_small)(weights=None)
        network.load_state_dict(state)
    except Exception as error:
        raise UserError(f"curation.motion.weights: {weights} is not torchvision's RAFT ({short_reason(error)})") from None
    return network
