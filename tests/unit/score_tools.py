"""A clip from an array, for tests of scores: what the scores may ask of a clip, and nothing else."""

import cv2
import numpy as np

from mugv.media.probe import VideoInfo


class ArrayClip:
    """Frames uint8 [T, H, W, 3] RGB on the clip's grid."""

    def __init__(self, frames: np.ndarray, fps: float = 12.0, info: VideoInfo | None = None) -> None:
        self.pictures, self.fps = frames, fps
        self.count, self.size = len(frames), (frames.shape[1], frames.shape[2])
        self.info = info or VideoInfo("raw", frames.shape[2], frames.shape[1], fps, len(frames), len(frames) / fps, 0)

    def seconds(self, k: int) -> float:
        return k / self.fps

    def index(self, k: int) -> int:
        return k

    def rgb(self, k: int, short_side: int) -> np.ndarray:
        return shrunk(self.pictures[k], short_side)

    def bgr(self, k: int, short_side: int) -> np.ndarray:
        return np.ascontiguousarray(self.rgb(k, short_side)[..., ::-1])

    def luma(self, k: int, short_side: int) -> np.ndarray:
        return shrunk(cv2.cvtColor(self.pictures[k], cv2.COLOR_RGB2GRAY), short_side)

    def crop(self, box: tuple[int, int, int, int]) -> "ArrayClip":
        left, top, width, height = box
        return ArrayClip(np.ascontiguousarray(self.pictures[:, top : top + height, left : left + width]), self.fps, self.info)


def shrunk(picture: np.ndarray, short_side: int) -> np.ndarray:
    """Halves while twice too large, then linear, as the decoder does."""
    while min(picture.shape[:2]) >= 2 * short_side:
        size = (picture.shape[1] // 2, picture.shape[0] // 2)
        picture = cv2.resize(picture[: size[1] * 2, : size[0] * 2], size, interpolation=cv2.INTER_AREA)
    scale = short_side / min(picture.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(picture)
    return cv2.resize(picture, (round(picture.shape[1] * scale), round(picture.shape[0] * scale)), interpolation=cv2.INTER_LINEAR)
