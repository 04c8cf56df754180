"""What a generated clip starts from: the flags of `mugv generate` about pictures and videos, and the files that they name."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mugv.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from mugv.generation import Given


@dataclass
class Start:
    """The flags about what the clip starts from. `notes` has what was done with a picture that the user may not expect."""

    image: Path | None
    last_image: Path | None
    continued: Path | None
    continued_frames: int | None
    video: Path | None
    start_step: int
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Everything that can be said before a model is loaded; pictures are read here."""
        if self.image and self.continued:
            raise UserError("--image and --continue exclude each other: both say how the clip starts")
        if self.continued_frames is not None and (not self.continued or self.continued_frames % 8 != 1 or self.continued_frames < 1):
            raise UserError(f"--continue-frames {self.continued_frames}: must be 1 + 8k (1, 9, 17, ...), beside --continue")
        if (self.video is None) != (self.start_step == 0):
            raise UserError("--video and --reverse-start-step go together; a step of 1 changes most, the number of --steps nothing")
        for flag, path in (("continue", self.continued), ("video", self.video)):
            if path and not path.is_file():
                raise UserError(f"--{flag} {path}: no such file")
        self.pictures = {flag: self._picture(flag, path) for flag, path in (("image", self.image), ("last-image", self.last_image)) if path}

    def shape(self) -> tuple[int, int] | None:
        """Height and width of the first of what is given, as it is shown; None when nothing is."""
        for found in self.pictures.values():
            return found.shape[0], found.shape[1]
        for flag, path in (("continue", self.continued), ("video", self.video)):
            if path:
                frame = _video(flag, path, None, first=1)
                return frame.shape[1], frame.shape[2]
        return None

    def read(self, fps: float, frames: int) -> Given:
        """What a clip of `frames` frames that is shown at `fps` frames a second is given."""
        from mugv.generation import Given

        first, last = (self.pictures[flag][None, None] if flag in self.pictures else None for flag in ("image", "last-image"))
        if self.continued:
            first = self._end(self.continued, fps, 1 + frames // 8)[None]
        source = None
        if self.video:
            source = _video("video", self.video, fps, first=frames)[None]
            if source.shape[1] < frames:
                raise UserError(f"--video {self.video}: {source.shape[1]} frames at {fps:g} a second, the clip {frames}; lower --frames")
        return Given(first, last, source, self.start_step)

    def _picture(self, flag: str, path: Path) -> np.ndarray:
        from mugv.media.still import read_picture

        found, notes = read_picture(path, f"--{flag} {path}")
        self.notes += notes
        return found

    def _end(self, path: Path, fps: float, latents: int) -> np.ndarray:
        """The last frames of a video: as many as asked for, else a quarter of the clip, two latents at least to show how things move."""
        wanted = self.continued_frames or 1 + 8 * (min(max(2, latents // 4), max(1, latents - 1)) - 1)
        found = _video("continue", path, fps, last=wanted)
        if self.continued_frames and len(found) < wanted:
            raise UserError(f"--continue-frames {wanted}: {path} has {len(found)} frames at {fps:g} a second")
        return found[(len(found) - 1) % 8 :]


def _video(flag: str, path: Path, fps: float | None, first: int | None = None, last: int | None = None) -> np.ndarray:
    """The first or the last frames of a video, resampled to `fps` where it is given: uint8 [T, H, W, 3]."""
    import numpy as np

    from mugv.media.decode import VideoReader, resample
    from mugv.media.probe import UnreadableVideoError

    try:
        reader = VideoReader(path)
        pictures = (frame.rgb() for frame in (resample(reader, fps) if fps else reader))
        found = deque(islice(pictures, first), maxlen=last)
    except UnreadableVideoError as error:
        raise UserError(f"--{flag} {path}: not a video that can be read ({error})") from None
    if not found:
        raise UserError(f"--{flag} {path}: has no frames")
    return np.stack(found)
