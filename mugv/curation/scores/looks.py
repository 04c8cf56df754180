"""CLIP embeddings of a clip and the LAION-style aesthetic score on them. Weights by path; nothing is downloaded."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mugv.curation.scores.base import Clip, Input, Once, short_reason, spread
from mugv.errors import UserError
from mugv.precision import here
from mugv.recipe.curation import Aesthetic as Settings
from mugv.recipe.curation import Curation
from mugv.store.carried import local_path

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation of RGB in 0 to 1 (Radford et al. 2021)."""


class Embedder:
    """Unit vectors float32 [frames, D] of a clip's pictures, by the image tower of CLIP."""

    def __init__(self, settings: Settings) -> None:
        import torch

        assert settings.clip is not None
        self.torch = torch
        self.device = torch.device(here())
        self.model = _clip(settings.clip).to(self.device).eval()
        self.input = Input("rgb", int(self.model.config.vision_config.image_size), settings.frames)
        self.frames = settings.frames

    def __call__(self, clip: Clip) -> np.ndarray:
        torch, side = self.torch, self.input.short_side
        pixels = np.stack([_square(clip.rgb(k, side), side) for k in spread(clip.count, self.frames)])
        x_BHWC = torch.from_numpy(pixels).to(self.device).float() / 255
        x_BHWC = (x_BHWC - x_BHWC.new_tensor(MEAN)) / x_BHWC.new_tensor(DEVIATION)
        with torch.inference_mode():
            tower = self.model.vision_model(pixel_values=x_BHWC.permute(0, 3, 1, 2))
            vectors = self.model.visual_projection(tower.pooler_output).float()
        found: np.ndarray = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
        return found


class Aesthetic:
    """LAION-style head on the pictures' embeddings, mean over frames, about 1 to 10 (paper 2.1: at least 4.5)."""

    name = "aesthetic"

    def __init__(self, embedder: Once[np.ndarray], wanted: Input, head: Path, width: int) -> None:
        self.embedder, self.input = embedder, wanted
        self.layers = _head(head, width)

    def __call__(self, clip: Clip) -> float:
        x = self.embedder(clip).astype(np.float64)
        for weight, bias in self.layers:
            x = x @ weight.T + bias
        return float(x.mean())


@lru_cache(maxsize=2)
def embedder_of(settings: Settings) -> Once[np.ndarray]:
    """One model a process, shared by the aesthetic score and the embeddings. Raises UserError when it cannot be read."""
    return Once(Embedder(settings))


def aesthetic_of(settings: Settings) -> Aesthetic | None:
    """The score that the recipe asks for; None without a model or a head. Raises UserError when weights are missing or do not fit."""
    if settings.clip is None:
        if settings.head is not None:
            raise UserError("curation.aesthetic.head: the head scores CLIP embeddings; set aesthetic.clip to the model's folder too")
        return None
    shared = embedder_of(settings)
    if settings.head is None:
        return None
    embedder: Any = shared.function
    return Aesthetic(shared, embedder.input, local_path(settings.head), int(embedder.model.config.projection_dim))


def embed(clip: Clip, settings: Curation) -> np.ndarray | None:
    """Unit vector float32 [D] of the clip's look, mean over its pictures; None when the recipe names no CLIP model."""
    if settings.aesthetic.clip is None:
        return None
    mean = embedder_of(settings.aesthetic)(clip).mean(axis=0)
    found: np.ndarray = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return found


def _square(rgb: np.ndarray, side: int) -> np.ndarray:
    """Short side to `side` (here also up: the network has one size), then the middle square."""
    scale = side / min(rgb.shape[:2])
    if scale != 1:
        size = (max(side, round(rgb.shape[1] * scale)), max(side, round(rgb.shape[0] * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC)
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    return rgb[top : top + side, left : left + side]


def _clip(name: str) -> Any:
    folder = local_path(name)
    if not (folder / "config.json").is_file():
        raise UserError(f"curation.aesthetic.clip: {folder} holds no CLIP model; a folder with config.json and model.safetensors is needed")
    from transformers import CLIPModel

    try:
        return CLIPModel.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise UserError(f"curation.aesthetic.clip: {folder} cannot be read as a CLIP model ({short_reason(error)})") from None


def _head(path: Path, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Linear layers in order. LAION's heads have no nonlinearity between theirs; dropout does nothing here."""
    if not path.is_file():
        raise UserError(f"curation.aesthetic.head: no file {path}; a .safetensors or .pth file with the head's linear layers is needed")
    try:
        state = _state(path)
        names = sorted((n[: -len("weight")] for n in state if n.endswith("weight")), key=lambda n: [int(k) for k in re.findall(r"\d+", n)])
        layers = [(np.asarray(state[f"{n}weight"], np.float64), np.asarray(state[f"{n}bias"], np.float64)) for n in names]
    except Exception as error:
        raise UserError(f"curation.aesthetic.head: {path} cannot be read ({short_reason(error)})") from None
    sizes = [width, *(len(bias) for _, bias in layers)]
    if not layers or [w.shape for w, _ in layers] != [(b, a) for a, b in pairwise(sizes)] or sizes[-1] != 1:
        shapes = " ".join(str(list(w.shape)) for w, _ in layers) or "no linear layer"
        raise UserError(f"curation.aesthetic.head: {path} has {shapes}; layers from the model's width {width} to 1 are needed")
    return layers


def _state(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    import torch

    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found
