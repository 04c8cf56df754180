"""HDR and wide-gamut pictures to BT.709 of standard range.

Light is computed from the signal (PQ: SMPTE ST 2084; HLG: BT.2100 on a display of 1000 nits, its system gamma on each of red, green
and blue as ffmpeg has it), 1 being reference white, 203 nits (BT.2408). The primaries become those of BT.709; what lies outside is
clipped. The brightest of the three is rolled off from KNEE on, and the others with it, so that hues stay: everything up to KNEE is as
the file has it, 203 nits come out at 0.8 of white (signal 232), and no highlight is clipped. The result is coded for a BT.1886 screen
(gamma 2.4). SDR of a wide gamut is only moved to the other primaries.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from mugv.media.signal import Gamut, Transfer

WHITE = 203.0
PEAKS = {int(Transfer.PQ): 10000.0, int(Transfer.HLG): 1000.0}
"""Nits."""
KNEE = 0.6
GAMMA, HLG_GAMMA = 2.4, 1.2
_POWERS = {int(Transfer.LINEAR): 1.0, int(Transfer.DCI): 2.6}
STEPS = 2**16
D65 = (0.3127, 0.329)
_XY = {
    0: ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), D65),
    Gamut.BT2020: ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), D65),
    Gamut.DCI_P3: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.314, 0.351)),
    Gamut.DISPLAY_P3: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65),
}
"""Red, green, blue and white of the primaries; 0: BT.709."""
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_standard(rgb: np.ndarray, transfer: int, gamut: int) -> np.ndarray:
    """uint16 [h, w, 3] in a signal of `Transfer` (0: gamma) and `Gamut` (0: BT.709) to uint8 [h, w, 3] of BT.709."""
    light = cv2.LUT(rgb, _light(transfer))
    if gamut:
        light = np.maximum(cv2.transform(light, _to_709(gamut)), np.float32(0))
    if transfer in PEAKS:
        red, green, blue = cv2.split(light)
        light *= _roll_off(cv2.max(cv2.max(red, green), blue), PEAKS[transfer] / WHITE)[..., None]
    places = np.sqrt(np.minimum(light, np.float32(1))) * np.float32(STEPS - 1)
    return cv2.LUT(places.astype(np.uint16), _code())


def _roll_off(brightest: np.ndarray, peak: float) -> np.ndarray:
    """Factor float32 [h, w] for light whose brightest part this is: slope 1 at KNEE, 1 at `peak`."""
    room = 1 - KNEE
    over, most = np.maximum(brightest - np.float32(KNEE), np.float32(0)) / np.float32(room), (peak - KNEE) / room
    rolled = np.float32(room) * over * (1 + over / np.float32(most**2)) / (1 + over)
    return (np.minimum(brightest, np.float32(KNEE)) + rolled) / np.maximum(brightest, np.float32(1e-6))


@lru_cache(maxsize=8)
def _light(transfer: int) -> np.ndarray:
    """float32 [1, STEPS]: light of a signal, reference white 1."""
    signal = np.arange(STEPS) / (STEPS - 1)
    if transfer == Transfer.PQ:
        root = signal ** (32 / 2523)
        light = PEAKS[transfer] / WHITE * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)
    elif transfer == Transfer.HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        light = PEAKS[transfer] / WHITE * scene**HLG_GAMMA
    elif transfer in (Transfer.LOG, Transfer.LOG_SQRT):
        light = np.where(signal > 0, 10 ** ((2 if transfer == Transfer.LOG else 2.5) * (signal - 1)), 0)
    else:
        light = signal ** _POWERS.get(transfer, GAMMA)
    return light.astype(np.float32)[None]


@lru_cache(maxsize=1)
def _code() -> np.ndarray:
    """uint8 [1, STEPS]: the signal of light, by its square root."""
    return np.round(255 * (np.arange(STEPS) / (STEPS - 1)) ** (2 / GAMMA)).astype(np.uint8)[None]


@lru_cache(maxsize=4)
def _to_709(gamut: int) -> np.ndarray:
    """float32 [3, 3]: light of these primaries to that of BT.709, whites onto each other."""
    source, target = (_BRADFORD @ _to_xyz(which) for which in (gamut, 0))
    adapted = np.diag(target.sum(1) / source.sum(1)) @ source
    return (np.linalg.inv(target) @ adapted).astype(np.float32)


def _to_xyz(gamut: int) -> np.ndarray:
    red, green, blue, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in _XY[gamut])
    columns = np.stack([red, green, blue], axis=1)
    return columns * np.linalg.solve(columns, white)
