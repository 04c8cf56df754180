"""Overlaid text: edges that stay at one place while the picture changes, then a text detector on what is dense enough to be writing.

The network is the detector of PP-OCR that comes inside the `rapidocr` package, run by onnxruntime on one thread. It costs more than the
decoding of a whole clip, so it only sees the regions that the cheap test leaves, and those are few in footage that moves.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mugv.curation.scores.base import Clip, Input, spread
from mugv.recipe.curation import OverlaidText as Settings

logger = logging.getLogger(__name__)

FRAMES = 4
EDGE = 80
"""Sobel response that an edge of writing has at least (a step of 20 levels)."""
DENSITY = 0.18
"""Share of the pixels of a window that are such edges where there is writing."""
GRID = 32
"""Sides that the network takes are multiples of this."""
FINER = 2
"""The network sees a region at this many times the size at which it was found, where the source has it and MOST_PIXELS allow."""
MOST_PIXELS = 192 * 352
"""Larger regions are scaled down: about 20 ms."""
SAME = 0.5
"""Share of the strong edges of a box of text that both frames have."""
SURE = 0.3
"""Probability from which a pixel belongs to text (DB post-processing of PP-OCR)."""
BOX_SURE = 0.6
"""Mean probability from which a box is text (same)."""
GROWN = 1.6
"""The network marks the core of a line; area times this over perimeter is how far its box reaches (same)."""

Detector = Callable[[np.ndarray], np.ndarray]
"""uint8 [h, w] -> probability float32 [h, w]; h and w multiples of GRID."""


class Text:
    """Share of the picture that boxes of overlaid text cover, 0 to 1."""

    name = "text"

    def __init__(self, settings: Settings, detector: Detector) -> None:
        self.detector = detector
        self.short_side = settings.short_side
        self.input = Input("luma", FINER * settings.short_side, FRAMES)

    def __call__(self, clip: Clip) -> float:
        shown = spread(clip.count, FRAMES)
        edges = [cv2.Sobel(clip.luma(k, self.short_side), cv2.CV_16S, 1, 0) for k in shown]
        area = sum(self._area(clip, shown, edges, region) for region in candidates(edges))
        return min(1.0, area / edges[0].size)

    def _area(self, clip: Clip, shown: Sequence[int], edges: list[np.ndarray], region: Region) -> float:
        """Text of a region, pixels. Writing must be seen in two frames, with the same edges: a texture has the likeness of it by chance."""
        x, y, width, height, pair = region
        scale = min(FINER, (MOST_PIXELS / (width * height)) ** 0.5)
        size = (_grid(width * scale), _grid(height * scale))
        seen: np.ndarray | None = None
        inside = (slice(y, y + height), slice(x, x + width))
        for k in (pair, pair + 1):
            fine = clip.luma(shown[k], self.input.short_side)
            probability = self.detector(cv2.resize(_part(fine, edges[k].shape, region), size, interpolation=cv2.INTER_LINEAR))
            seen = probability if seen is None else cv2.min(seen, probability)
            boxes = text_boxes(seen)
            if not boxes:
                return 0.0
        stay = _stay(edges[pair][inside], edges[pair + 1][inside], size)
        return sum(w * h for *_, w, h in (box for box in boxes if stay(box))) * width * height / (size[0] * size[1])


def _part(fine: np.ndarray, shape: tuple[int, ...], region: Region) -> np.ndarray:
    """A region, given for pictures of `shape`, of the same picture in another size."""
    x, y, width, height, _ = region
    rows, columns = fine.shape[0] / shape[0], fine.shape[1] / shape[1]
    return fine[round(y * rows) : round((y + height) * rows), round(x * columns) : round((x + width) * columns)]


LOWEST = 6
"""Pixels of a side under which there is no writing."""
Region = tuple[int, int, int, int, int]
"""x, y, width, height, and the number of the first of the two neighbouring frames that share its edges."""


def candidates(edges: list[np.ndarray]) -> list[Region]:
    """Where overlaid writing may be: dense upright edges of both signs that two neighbouring frames share; of int16 [h, w] gradients.

    Density is counted at half size, which is a quarter of the work.
    """
    if min(edges[0].shape) < LOWEST:
        return []
    height, width = edges[0].shape[0] // 2, edges[0].shape[1] // 2
    window = (max(4, width // 12) | 1, max(3, height // 24) | 1)
    dense = np.zeros((height, width), np.uint8)
    shared = np.zeros((height, width), np.uint8)
    for k, (first, second) in enumerate(pairwise(edges)):
        rise, fall = (cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) for mask in _shared(first, second))
        found = cv2.compare(cv2.min(cv2.blur(rise, window), cv2.blur(fall, window)), 255 * DENSITY / 2, cv2.CMP_GT)
        shared[cv2.compare(found, dense, cv2.CMP_GT) > 0] = k
        dense = cv2.max(dense, found)
    return _regions(dense, shared, window) if dense.any() else []


def _shared(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks (0 or 255) of the strong edges from dark to bright, and from bright to dark, that both gradients have."""
    return cv2.compare(cv2.min(first, second), EDGE, cv2.CMP_GT), cv2.compare(cv2.max(first, second), -EDGE, cv2.CMP_LT)


def _stay(first: np.ndarray, second: np.ndarray, size: tuple[int, int]) -> Callable[[TextBox], bool]:
    """Whether most of the strong edges of a box, in a picture of `size`, are the same in both frames: what lies over a moving picture."""
    both = cv2.resize(cv2.max(*_shared(first, second)), size, interpolation=cv2.INTER_AREA)
    either = cv2.compare(cv2.max(cv2.absdiff(first, 0), cv2.absdiff(second, 0)), EDGE, cv2.CMP_GT)
    either = cv2.resize(either, size, interpolation=cv2.INTER_AREA)

    def stays(box: TextBox) -> bool:
        x, y, width, height = (int(v) for v in box)
        part = (slice(max(0, y), y + height + 1), slice(max(0, x), x + width + 1))
        return float(both[part].sum()) >= SAME * float(either[part].sum())

    return stays


def _regions(dense: np.ndarray, shared: np.ndarray, window: tuple[int, int]) -> list[Region]:
    """Spots that touch after growing by a window are one region: the network wants lines whole and with some air around."""
    grown = cv2.dilate(dense, np.ones((2 * window[1] + 1, 2 * window[0] + 1), np.uint8))
    boxes = cv2.connectedComponentsWithStats(grown)[2][1:, :4].tolist()
    found = []
    for x, y, width, height in boxes:
        inside = (slice(y, y + height), slice(x, x + width))
        k = int(np.bincount(shared[inside][dense[inside] > 0]).argmax())
        found.append((2 * x, 2 * y, 2 * width, 2 * height, k))
    return found


TextBox = tuple[float, float, float, float]
"""left, top, width, height."""


def text_boxes(probability: np.ndarray) -> list[TextBox]:
    """Boxes of text in a map of probabilities [h, w], pixels of the map."""
    kernel = (probability > SURE).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(kernel)
    boxes = []
    for k in range(1, count):
        left, top, width, height, size = (int(v) for v in stats[k])
        if min(width, height) < 2 or float(probability[labels == k].sum()) / size < BOX_SURE:
            continue
        reach = GROWN * size / (2 * (width + height))
        boxes.append((left - reach, top - reach, width + 2 * reach, height + 2 * reach))
    return boxes


def _grid(pixels: float) -> int:
    return max(GRID, round(pixels / GRID) * GRID)


@lru_cache(maxsize=1)
def load_detector() -> Detector | None:
    """PP-OCR's detection network, one a process; None, said once in the log, when rapidocr, its weights or onnxruntime is not installed."""
    package = importlib.util.find_spec("rapidocr")
    if package is not None and package.origin is not None and importlib.util.find_spec("onnxruntime") is not None:
        weights = sorted((Path(package.origin).parent / "models").glob("*det*.onnx"))
        if weights:
            return _session(weights[0])
    logger.warning("overlaid text is not measured: the packages rapidocr (with its weights) and onnxruntime are not both installed")
    return None


def text_of(settings: Settings) -> Text | None:
    """The score that the recipe asks for; None when it is off or its detector is not installed."""
    detector = None if settings.detector == "off" else load_detector()
    return None if detector is None else Text(settings, detector)


def _session(weights: Path) -> Detector:
    """The network, loaded when it is first asked: much footage never shows anything like writing."""
    network: Any = None

    def detect(luma: np.ndarray) -> np.ndarray:
        nonlocal network
        network = network or _network(weights)
        plane = luma.astype(np.float32) / 127.5 - 1
        name = network.get_inputs()[0].name
        probability: np.ndarray = network.run(None, {name: np.broadcast_to(plane, (1, 3, *plane.shape))})[0]
        return probability[0, 0]

    return detect


def _network(weights: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
