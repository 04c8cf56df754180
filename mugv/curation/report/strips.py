"""Strips: one picture a clip, frames side by side, for people who look at what was kept and what went."""

from __future__ import annotations

import io
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from mugv.curation.rows import ClipRow

FRAMES, SHORT_SIDE, QUALITY = 6, 96, 80
GAP = 2
KEPT_SHOWN, REJECTED_SHOWN = 24, 12


def strip_of(clip: bytes) -> bytes:
    """JPEG of a stored clip's frames, evenly spaced."""
    from mugv.media.decode import read_video

    return draw_strip(read_video(io.BytesIO(clip))[0])


def draw_strip(frames: np.ndarray) -> bytes:
    """JPEG of FRAMES of uint8 frames [T, H, W, 3] (RGB), evenly spaced."""
    scale = min(1.0, SHORT_SIDE / min(frames.shape[1:3]))
    size = max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale))
    chosen = frames[np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
    tiles = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in chosen]
    gap = np.full((size[1], GAP, 3), 255, np.uint8)
    whole = np.concatenate([part for tile in tiles for part in (gap, tile)][1:], axis=1)
    return cv2.imencode(".jpg", whole[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def read_strips(parts: Sequence[Path]) -> dict[str, bytes]:
    """clip_id -> JPEG, of the strips-*.tar of all parts."""
    found = {}
    for path in (path for part in parts for path in sorted(part.glob("strips-*.tar"))):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name.removesuffix(".jpg")] = file.read()
    return found


Shown = dict[str, list[tuple[ClipRow, bytes]]]
"""Group -> its rows with their strips; the kept ones' group is "", the others' their reason."""


def choose(rows: Sequence[ClipRow], strips: Mapping[str, bytes], clips: Mapping[str, bytes]) -> Shown:
    """The rows to show, of each group evenly spaced over the rows that have a picture.

    clips: clip_id -> MP4. What only the merge rejected has a clip, from which a strip is drawn.
    """
    groups: dict[str, list[ClipRow]] = defaultdict(list)
    for row in rows:
        if row.clip_id in strips or row.clip_id in clips:
            groups[row.reason].append(row)
    shown: Shown = {}
    for reason in sorted(groups):
        most = KEPT_SHOWN if reason == "" else REJECTED_SHOWN
        some = groups[reason]
        places = sorted({round(k * (len(some) - 1) / (most - 1)) for k in range(most)}) if len(some) > most else range(len(some))
        shown[reason] = [(some[k], strips.get(some[k].clip_id) or strip_of(clips[some[k].clip_id])) for k in places]
    return shown
