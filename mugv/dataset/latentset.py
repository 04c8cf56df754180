"""LatentSet: what the DiT trains on. Normalised latents for each (clip, size), text embeddings, and how they were normalised.

manifest.parquet                 a row a clip: clip_id, split, caption, score, fps, row
latents-<H>x<W>.safetensors      "latents" [N, C, T, H/8, W/8] float32, normalised: (z - shift) / scale
text.safetensors                 "embeddings" [sum of lengths, width], "offsets" [N + 1], "null" [L, width]
set.json                         shift, scale, sizes, frames, file digests, text encoder, origin
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mugv.errors import UserError

Size = tuple[int, int]


@dataclass(frozen=True)
class LatentRow:
    """One clip of the set; `row` is its index in every latent file."""

    clip_id: str
    split: str
    caption: str
    score: float
    fps: float
    row: int


@dataclass(frozen=True)
class LatentNorm:
    """Per-channel mean and standard deviation of the training split's posterior means, each [C]."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def normalise(self, z_BCTHW: Tensor) -> Tensor:
        return (z_BCTHW - self._column(self.shift)) / self._column(self.scale)

    def restore(self, z_BCTHW: Tensor) -> Tensor:
        return z_BCTHW * self._column(self.scale) + self._column(self.shift)

    @staticmethod
    def _column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)[None, :, None, None, None]


def latent_file(size: Size) -> str:
    return f"latents-{size[0]}x{size[1]}.safetensors"


def write_latent_set(
    folder: Path,
    rows: list[LatentRow],
    latents: dict[Size, Tensor],
    embeddings: list[np.ndarray],
    null: np.ndarray,
    norm: LatentNorm,
    origin: dict[str, Any],
) -> None:
    """Write the set. latents[size] [N, C, T, h, w] are normalised already; embeddings are [L, width] a clip, in row order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([asdict(r) for r in rows]), folder / "manifest.parquet")
    for size, tensor in latents.items():
        save_file({"latents": tensor.contiguous()}, folder / latent_file(size))
    offsets = np.cumsum([0] + [len(e) for e in embeddings])
    arrays = {"embeddings": np.concatenate(embeddings), "offsets": offsets, "null": null}
    text = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_file(text, folder / "text.safetensors")
    files = sorted(p.name for p in folder.iterdir() if p.name != "set.json")
    digests = {name: _digest(folder / name) for name in files}
    sizes = [list(size) for size in latents]
    description = {"shift": norm.shift, "scale": norm.scale, "sizes": sizes, "digests": digests, **origin}
    (folder / "set.json").write_text(json.dumps(description, indent=1))


class LatentSet:
    """Reads rows from memory-mapped files; a file's digest is checked when it is first opened."""

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq  # generation takes LatentNorm alone, on machines without pyarrow

        self.folder = folder
        self.description: dict[str, Any] = json.loads((folder / "set.json").read_text())
        self.norm = LatentNorm(tuple(self.description["shift"]), tuple(self.description["scale"]))
        self.rows = [LatentRow(**r) for r in pq.read_table(folder / "manifest.parquet").to_pylist()]
        self._latents: dict[Size, Any] = {}
        with safe_open(self._checked("text.safetensors"), "pt") as file:
            self._embeddings, self._offsets, self.null = (file.get_tensor(n) for n in ("embeddings", "offsets", "null"))

    @staticmethod
    def open(folder: Path) -> LatentSet:
        return LatentSet(Path(folder))

    def clips(self, split: str) -> list[LatentRow]:
        return [r for r in self.rows if r.split == split]

    def latents(self, rows: list[LatentRow], size: Size, frames: int | None = None) -> Tensor:
        """[B, C, T, h, w] of the rows at a size, cut to the first `frames` latent frames."""
        part = self._slice(size)
        return torch.cat([part[r.row : r.row + 1] for r in rows])[:, :, :frames]

    def text(self, rows: list[LatentRow | None]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, L, width], padded with zeros, and mask bool [B, L]. None stands for the null text."""
        parts = [self.null if r is None else self._embeddings[self._offsets[r.row] : self._offsets[r.row + 1]] for r in rows]
        return pad_text(parts)

    def _slice(self, size: Size) -> Any:
        if size not in self._latents:
            if list(size) not in self.description["sizes"]:
                raise UserError(f"latent set {self.folder}: no latents at size {list(size)}; it has {self.description['sizes']}")
            self._latents[size] = safe_open(self._checked(latent_file(size)), "pt").get_slice("latents")
        return self._latents[size]

    def _checked(self, name: str) -> str:
        path = self.folder / name
        if _digest(path) != self.description["digests"][name]:
            raise UserError(f"latent set {path}: the content does not match its digest; encode the clips again")
        return str(path)


def pad_text(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack [L_i, width] texts to [B, L, width] and the mask bool [B, L] of real tokens."""
    length = max(len(p) for p in parts)
    out = torch.zeros(len(parts), length, parts[0].shape[1])
    mask = torch.zeros(len(parts), length, dtype=torch.bool)
    for i, part in enumerate(parts):
        out[i, : len(part)] = part
        mask[i, : len(part)] = True
    return out, mask


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
