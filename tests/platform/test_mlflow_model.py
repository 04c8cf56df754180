"""A registered version loads with mlflow.pyfunc.load_model, takes typed requests and returns videos (of small, untrained networks)."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.media.decode import read_video
from mugv.platform.registry import Registry, log_version
from mugv.platform.tracking import Tracking
from mugv.recipe.flow import Sampler
from mugv.recipe.models import DiTModel, TextEncoder, VAEModel
from mugv.recipe.schema import Flow, Parallel

VAE = VAEModel(
    latent_channels=4,
    base_channels=8,
    channel_multipliers=(1, 1, 1, 1),
    blocks_per_level=1,
    temporal_channels=(8, 8, 8, 8),
    temporal_blocks=1,
    groups=4,
)
DIT = DiTModel(layers=1, hidden=24, heads=2, latent_channels=4)
TEXT = TextEncoder(width=16, max_tokens=8)
DESCRIPTION = {
    "model": DIT.model_dump(),
    "width_divisor": 1,
    "text": TEXT.model_dump(),
    "latent_norm": {"shift": [0.0] * 4, "scale": [1.0] * 4},
    "size": [32, 32],
    "frames": 9,
    "fps": 12.0,
    "flow": Flow().model_dump(),
}

EVALUATED = Sampler(steps=2, method="ab2", guidance=2.5, dynamic_clamp={1: 0.15})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mugv.training.engine import build_model
    from mugv.training.model_io import save_model
    from mugv.vae import VideoVAE, save_vae

    folder = tmp_path_factory.mktemp("model")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in ("vae", "checkpoint"):
        (folder / name).mkdir()
    save_vae(VideoVAE(VAE), folder / "vae")
    save_model(build_model(DIT, TEXT.width, 1, Parallel(), 0), folder / "checkpoint", DESCRIPTION)
    tracking = Tracking(f"sqlite:///{folder / 'mlflow.db'}", artifacts=folder / "artifacts")
    (folder / "metrics.json").write_text(json.dumps({"metrics": {}, "sampler": EVALUATED.model_dump()}))
    artifacts = {name: folder / name for name in ("checkpoint", "vae")} | {"evaluation": folder / "metrics.json"}
    log_version(tracking.uri, tracking.experiment, "", "mugv", artifacts, {}, {"t2v_seen_all": 0.5})
    Registry(tracking.uri).promote("mugv", "1", "test")
    yield mlflow.pyfunc.load_model("models:/mugv@champion")
    torch.set_num_threads(before)


def frames(answer: str, folder: Path) -> np.ndarray:
    path = folder / "answer.mp4"
    path.write_bytes(base64.b64decode(answer))
    return read_video(path)[0]


def test_champion_answers_each_request_with_a_video(loaded: Any, tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (40, 32), (200, 30, 30)).save(picture, "PNG")
    requests = [
        {"prompt": "a red circle moves left", "steps": 2},
        {"prompt": "a red circle moves left", "steps": 2, "seed": 1},
        {"prompt": "a red circle moves left", "steps": 2, "image": base64.b64encode(picture.getvalue()).decode()},
    ]
    answers = loaded.predict(requests)
    clips = [frames(answer, tmp_path) for answer in answers]
    assert [clip.shape for clip in clips] == [(9, 32, 32, 3)] * 3
    assert len(set(answers)) == 3
    assert loaded.predict(requests[:1]) == answers[:1]


def test_a_version_samples_as_it_was_evaluated_unless_it_is_told_otherwise(loaded: Any, tmp_path: Path, monkeypatch) -> None:
    """The command line and the served model took 25 steps of Euler, whatever the figures of the version were measured with."""
    from mugv.generation import Generator

    asked, generate = [], Generator.generate
    monkeypatch.setattr(
        Generator, "generate", lambda self, prompts, **more: asked.append(more["sampler"]) or generate(self, prompts, **more)
    )
    loaded.predict([{"prompt": "a"}, {"prompt": "a", "steps": 1}])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
    for flags in ([], ["--guidance", "1"]):
        result = CliRunner().invoke(app, ["generate", "a", "-o", str(tmp_path / "a.mp4"), "--state", str(tmp_path), *flags])
        assert result.exit_code == 0, result.output
    one_step, no_guidance = (EVALUATED.model_copy(update=change) for change in ({"steps": 1}, {"guidance": 1.0}))
    assert asked == [EVALUATED, one_step, EVALUATED, no_guidance]


@pytest.mark.parametrize("request_", [{"steps": 2}, {"prompt": "a", "steps": 0}, {"prompt": "a", "size": 4}])
def test_request_of_a_wrong_form_is_refused_before_anything_is_made(loaded: Any, request_: dict[str, Any]) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"Failed to enforce schema|Failed to convert|validation error"):
        loaded.predict([request_])
