"""A perceptual hash of a clip that two encodings of the same pixels share and two clips that merely look alike do not.

Each hashed frame is a 6 x 6 grid of mean colours. Every cell and colour channel gives one bit: brighter than the clip's mean
of that channel or not. So the hash knows places and colours and ignores contrast; a shape that moves elsewhere changes it.
108 bits a frame, every frame up to 17, evenly thinned above that.
"""

from __future__ import annotations

import cv2
import numpy as np

GRID = 6
BITS = 3 * GRID * GRID
FRAME_BYTES = -(-BITS // 8)
HASHED_FRAMES = 17


def video_hash(frames: np.ndarray) -> str:
    """Hex hash of uint8 frames [T, H, W, 3]."""
    step = max(1, len(frames) // HASHED_FRAMES)
    cells = np.stack([cv2.resize(f, (GRID, GRID), interpolation=cv2.INTER_AREA) for f in frames[::step]]).astype(np.float32)
    bits = cells > cells.mean(axis=(0, 1, 2))
    return np.packbits(bits.reshape(len(cells), BITS), axis=1).tobytes().hex()


def distance(first: str, second: str) -> float:
    """Mean differing bits a frame, 0 to 108, at the shift in time that fits best; at least half of the frames must overlap."""
    a, b = _frames(first), _frames(second)
    n = min(len(a), len(b))
    best = float(BITS)
    for shift in range(-(n // 2), n // 2 + 1):
        left, right = a[max(0, shift) :], b[max(0, -shift) :]
        overlap = min(len(left), len(right))
        differing = np.bitwise_count(left[:overlap] ^ right[:overlap]).sum() / overlap
        best = min(best, float(differing))
    return best


def _frames(code: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(code), np.uint8).reshape(-1, FRAME_BYTES)
