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
    seed: int = Field(default=0, ge=0)
    steps: int | None = Field(default=None, ge=1)
    """None: as the model was evaluated; so is everything else about the sampler."""
    guidance: float | None = Field(default=None, allow_inf_nan=False)


class VideoModel(mlflow.pyfunc.PythonModel):
    """Artifacts: `checkpoint`, a DiT checkpoint folder, `vae`, a VAE folder, and `evaluation`, the evaluation's metrics.json."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        from mugv.generation import Generator

        found = {name: Path(path) for name, path in context.artifacts.items()}
        self.generator = Generator.open(found["checkpoint"], found["vae"], evaluated=found.get("evaluation"))

    def predict(self, model_input: list[GenerateRequest]) -> list[str]:
        """One MP4 file as base64 text for each request."""
        return [self._make(request) for request in model_input]

    def _make(self, request: GenerateRequest) -> str:
        from mugv.generation import Given
        from mugv.generation.given import turned

        first = None if request.image is None else picture(_decoded(request.image))
        size = turned(self.generator.size, None if first is None else (first.shape[0], first.shape[1]))
        given = Given(first=None if first is None else first[None, None])
        asked = {"steps": request.steps, "guidance": request.guidance}
        sampler = self.generator.usage.sampler.model_copy(update={k: v for k, v in asked.items() if v is not None})
        clip = self.generator.generate([request.prompt], size=size, seeds=[request.seed], sampler=sampler, given=given)[0]
        return base64.b64encode(video_bytes(clip, self.generator.file_fps)).decode()


def _decoded(text: str) -> bytes:
    from mugv.errors import UserError

    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise UserError("image: not base64; expected a PNG or JPEG file as base64 text") from None


def picture(content: bytes) -> np.ndarray:
    """A picture file as uint8 [H, W, 3]. Raises UserError when it is none."""
    from mugv.media.still import read_picture

    return read_picture(io.BytesIO(content), "image")[0]


def video_bytes(clip: np.ndarray, fps: float) -> bytes:
    """uint8 [T, H, W, 3] as an MP4 file."""
    from mugv.media.encode import write_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, clip, fps)
        return path.read_bytes()


mlflow.models.set_model(VideoModel())
