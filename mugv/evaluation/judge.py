"""The judge: reads colour, shape and direction of a moving shape from pixels alone. Nothing here is learned.

Used by the evaluate stage on real, reconstructed and generated clips, and by the candidates stage as a labeller.
Each attribute is None when the judge is not sure; an abstention counts as wrong.
Legend: T frames, H W rows and columns, K template shapes, J template scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mugv.media.shapes import COLOURS, DIRECTIONS, SHAPES, Combination

WORKING_SIDE = 48
"""Larger clips are scaled down to this short side first: enough for silhouettes of 9% of the frame, and fast."""
MINIMUM_CHROMA = 0.25
"""The sample footage has 0.8; a clip whose brightest colour is paler than this shows no object."""
OBJECT_AREA = (0.02, 0.30)
"""Share of the frame that an object may cover; the footage's are 0.073 to 0.115."""
LARGEST_PART = 0.7
"""Share of the coloured pixels that must hang together: noise and confetti are no object."""
MINIMUM_HUE_AGREEMENT = 0.85
MINIMUM_OVERLAP = 0.55
MINIMUM_OVERLAP_LEAD = 0.04
MINIMUM_TRAVEL = 0.10
"""Of the frame's side over the clip; the footage travels at least 0.30 every 17 frames."""
MINIMUM_STRAIGHTNESS = 0.6
"""Share of the centroid's variance along its main axis that a constant velocity must explain."""
MAXIMUM_SIDE_STEP = 0.5
"""Speed across the direction of motion, as a share of the speed along it."""
MINIMUM_FRAMES = 0.75
"""Share of the frames that must show an object."""
_SCALES = np.asarray([0.80, 0.88, 0.96, 1.04, 1.12, 1.20])
_HUES = {name: complex(rgb[0] - 0.5 * (rgb[1] + rgb[2]), np.sqrt(0.75) * (rgb[1] - rgb[2])) for name, rgb in COLOURS.items()}


@dataclass(frozen=True)
class Verdict:
    """What a clip shows. None: not sure. Confidences are in [0, 1]: agreement of hue, template IoU, straightness of the path.

    `steady`: the colour and shape that every single frame shows ("red circle"); "" when a frame shows another, or none for sure.
    """

    colour: str | None
    shape: str | None
    direction: str | None
    colour_confidence: float = 0.0
    shape_confidence: float = 0.0
    direction_confidence: float = 0.0
    steady: str | None = None

    def matches(self, combination: Combination) -> dict[str, bool]:
        """Attribute -> whether the clip shows what was asked for; `steady`: in every frame."""
        found = {name: getattr(self, name) == getattr(combination, name) for name in ("colour", "shape", "direction")}
        return found | {"steady": self.steady == f"{combination.colour} {combination.shape}"}


NOTHING = Verdict(None, None, None)


def judge(clip: np.ndarray) -> Verdict:
    """The verdict on a clip uint8 [T, H, W, 3], T >= 2, of any size from 24 pixels on."""
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8:
        raise ValueError(f"expected a uint8 clip [T, H, W, 3], got {clip.dtype} {list(clip.shape)}")
    chroma_THW = _chroma(_shrink(clip))
    masks_THW, weights_THW = _object_masks(np.abs(chroma_THW))
    shown = np.flatnonzero(masks_THW.any(axis=(1, 2)))
    if len(shown) < max(2, MINIMUM_FRAMES * len(clip)):
        return NOTHING
    centres = _centres(weights_THW[shown])
    overlaps = {shape: _overlap(shape, masks_THW[shown], centres) for shape in SHAPES}
    colour, colour_confidence = _colour(chroma_THW[masks_THW])
    shape, shape_confidence = _shape({name: float(each.mean()) for name, each in overlaps.items()})
    direction, direction_confidence = _direction(shown, centres / min(masks_THW.shape[1:]), len(clip))
    steady = _steady(chroma_THW, masks_THW, overlaps) if len(shown) == len(clip) else ""
    return Verdict(colour, shape, direction, colour_confidence, shape_confidence, direction_confidence, steady)


def _shrink(clip: np.ndarray) -> np.ndarray:
    scale = WORKING_SIDE / min(clip.shape[1:3])
    if scale >= 1:
        return clip
    height, width = (round(side * scale) for side in clip.shape[1:3])
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in clip])


def _chroma(clip: np.ndarray) -> np.ndarray:
    """Complex [T, H, W]: the angle is the hue, the magnitude the distance from grey; primaries at full strength give 1.

    A 3x3 average takes out the pixel noise that lossy coding and a decoder leave; averaging vectors cancels noise of
    opposite hues where averaging saturations would add it up.
    """
    red, green, blue = (clip[..., c].astype(np.float32) for c in range(3))
    real, imaginary = red - 0.5 * (green + blue), np.sqrt(np.float32(0.75)) * (green - blue)
    smooth = [[cv2.blur(frame, (3, 3), borderType=cv2.BORDER_REPLICATE) for frame in part] for part in (real, imaginary)]
    return (np.asarray(smooth[0]) + 1j * np.asarray(smooth[1])) / 255


def _object_masks(magnitude_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mask bool [T, H, W], weights [T, H, W]) of each frame's object; all False where a frame shows none.

    The mask is cut at half of the clip's strongest colour, where a blurred edge keeps the size of a sharp one.
    """
    peak = float(np.percentile(magnitude_THW, 98))
    masks = np.zeros(magnitude_THW.shape, bool)
    weights = np.zeros(magnitude_THW.shape, np.float32)
    if peak < MINIMUM_CHROMA:
        return masks, weights
    for t, frame in enumerate(magnitude_THW):
        part = _largest_part(frame > 0.5 * peak)
        if part is not None:
            masks[t] = part
            weights[t] = np.where(cv2.dilate(part.astype(np.uint8), np.ones((3, 3), np.uint8)), np.minimum(frame / peak, 1), 0)
    return masks, weights


def _largest_part(mask: np.ndarray) -> np.ndarray | None:
    low, high = (share * mask.size for share in OBJECT_AREA)
    coloured = int(mask.sum())
    if not low <= coloured <= high / LARGEST_PART:
        return None
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    area = stats[largest, cv2.CC_STAT_AREA]
    if not low <= area <= high or area < LARGEST_PART * coloured:
        return None
    return labels == largest


def _centres(weights_THW: np.ndarray) -> np.ndarray:
    """Centroids [T, 2] as (x, y) in pixels, pixel centres at half integers."""
    total = weights_THW.sum(axis=(1, 2))
    x = weights_THW.sum(axis=1) @ (np.arange(weights_THW.shape[2]) + 0.5) / total
    y = weights_THW.sum(axis=2) @ (np.arange(weights_THW.shape[1]) + 0.5) / total
    return np.stack([x, y], axis=1)


def _colour(chroma: np.ndarray) -> tuple[str | None, float]:
    """The nearest of the six hues, 60 degrees apart; not sure when the object's pixels disagree."""
    mean = chroma.sum() / np.abs(chroma).sum()
    agreement = float(np.abs(mean))
    name = max(_HUES, key=lambda n: (mean * np.conj(_HUES[n])).real)
    return (name if agreement >= MINIMUM_HUE_AGREEMENT else None), agreement


def _steady(chroma_THW: np.ndarray, masks_THW: np.ndarray, overlaps: dict[str, np.ndarray]) -> str:
    """Colour and shape of the frames, each read alone by the clip's rules; "" when they differ or one is not sure."""
    seen = set()
    for t, (chroma, mask) in enumerate(zip(chroma_THW, masks_THW, strict=True)):
        seen.add((_colour(chroma[mask])[0], _shape({name: float(each[t]) for name, each in overlaps.items()})[0]))
    colour, shape = seen.pop()
    return f"{colour} {shape}" if not seen and colour and shape else ""


def _shape(overlaps: dict[str, float]) -> tuple[str | None, float]:
    """The template with the best IoU (of a frame, or their mean) at the object's centroid and over scales around its area."""
    best, second = sorted(overlaps, key=overlaps.__getitem__, reverse=True)[:2]
    sure = overlaps[best] >= MINIMUM_OVERLAP and overlaps[best] - overlaps[second] >= MINIMUM_OVERLAP_LEAD
    return (best if sure else None), overlaps[best]


def _overlap(shape: str, masks_THW: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Best IoU [T] of a shape's silhouette with each mask, over `_SCALES` times the scale that has the mask's area."""
    half_w, half_h = SHAPES[shape]
    unit_area = np.pi * half_w * half_h if shape == "circle" else 4 * half_w * half_h
    areas = masks_THW.sum(axis=(1, 2)).astype(np.float32)
    scales_TJ = (np.sqrt(areas / unit_area)[:, None] * _SCALES).astype(np.float32)
    dx = np.abs(np.arange(masks_THW.shape[2], dtype=np.float32) + 0.5 - centres[:, :1].astype(np.float32))
    dy = np.abs(np.arange(masks_THW.shape[1], dtype=np.float32) + 0.5 - centres[:, 1:].astype(np.float32))
    unit_x, unit_y = dx[:, None, :] / scales_TJ[..., None], dy[:, None, :] / scales_TJ[..., None]
    if shape == "circle":
        templates = (unit_x**2)[:, :, None, :] + (unit_y**2)[:, :, :, None] < half_w**2
        template_areas = templates.sum(axis=(2, 3))
        common = (templates & masks_THW[:, None]).sum(axis=(2, 3))
    else:
        columns, rows, masks = (x.astype(np.float32) for x in (unit_x < half_w, unit_y < half_h, masks_THW))
        template_areas = columns.sum(axis=2) * rows.sum(axis=2)
        common = np.einsum("tjh,thw,tjw->tj", rows, masks, columns, optimize=True)
    return (common / (template_areas + areas[:, None] - common)).max(axis=1)


def _direction(frames: np.ndarray, centres: np.ndarray, length: int) -> tuple[str | None, float]:
    """Where the centroid goes, by least squares over the frames that show an object; `centres` are fractions of the side."""
    time = frames - frames.mean()
    velocity = time @ (centres - centres.mean(axis=0)) / (time @ time)
    axis = int(np.argmax(np.abs(velocity)))
    path = centres[:, axis] - centres[:, axis].mean()
    straightness = float(velocity[axis] ** 2 * (time @ time) / max(float(path @ path), 1e-12))
    travel = abs(velocity[axis]) * (length - 1)
    side_step = abs(velocity[1 - axis]) / max(abs(velocity[axis]), 1e-12)
    if travel < MINIMUM_TRAVEL or straightness < MINIMUM_STRAIGHTNESS or side_step > MAXIMUM_SIDE_STEP:
        return None, straightness if travel >= MINIMUM_TRAVEL else 0.0
    sign = int(np.sign(velocity[axis]))
    step = (sign, 0) if axis == 0 else (0, sign)
    return next(name for name, vector in DIRECTIONS.items() if vector == step), straightness
