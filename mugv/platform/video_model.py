"""The registered model: an MLflow pyfunc that takes prompts (with a first frame) and returns MP4 files as base64 text.

MLflow keeps this file with each version and runs it on loading, so a version holds no pickled object.
"""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np


class GenerateRequest(BaseModel):
    """One video to make."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    image: str | None = None
    """First frame: a PNG or JPEG file as base64 text; None: text to video."""
    seed: int = 0
    steps: int = Field(default=25, ge=1)
    guidance: float = 4.0


class VideoModel(mlflow.pyfunc.PythonModel):
    """Artifacts: `checkpoint`, a DiT checkpoint folder, and `vae`, a VAE folder."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        from mugv.generation import Generator

        self.generator = Generator.open(Path(context.artifacts["checkpoint"]), Path(context.artifacts["vae"]))

    def predict(self, model_input: list[GenerateRequest]) -> list[str]:
        """One MP4 file as base64 text for each request."""
        return [self._make(request) for request in model_input]

    def _make(self, request: GenerateRequest) -> str:
        from mugv.generation import Given
        from mugv.recipe.flow import Sampler

        given = Given() if request.image is None else Given(first=picture(base64.b64decode(request.image))[None, None])
        sampler = Sampler(steps=request.steps, guidance=request.guidance)
        clip = self.generator.generate([request.prompt], seeds=[request.seed], sampler=sampler, given=given)[0]
        return base64.b64encode(video_bytes(clip, self.generator.fps)).decode()


def picture(content: bytes) -> np.ndarray:
    """A picture file as uint8 [H, W, 3]. Raises UserError when it is none."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from mugv.errors import UserError

    try:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except UnidentifiedImageError:
        raise UserError("image: not a picture file that can be read; expected PNG or JPEG") from None


def video_bytes(clip: np.ndarray, fps: float) -> bytes:
    """uint8 [T, H, W, 3] as an MP4 file."""
    from mugv.media.encode import write_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, clip, fps)
        return path.read_bytes()


mlflow.models.set_model(VideoModel())
