"""`mugv generate`: text and given pictures to a video file, from the champion, another version, or a checkpoint."""

from __future__ import annotations

import re
import warnings
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mugv.cli.common import StateOption, check_output, existing_state
from mugv.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from mugv.generation import Generator, Given
    from mugv.recipe.flow import Sampler
    from mugv.store.base import Ref

Picture = Annotated[Path | None, typer.Option(help="Picture that becomes the first frame.")]
LastPicture = Annotated[Path | None, typer.Option(help="Picture that becomes the last frame.")]
Continue = Annotated[Path | None, typer.Option("--continue", help="Video whose end the clip starts with and goes on from.")]
ContinueFrames = Annotated[int | None, typer.Option(help="Frames of --continue to start with, 1 + 8k (default: a quarter of the clip).")]
Source = Annotated[Path | None, typer.Option(help="Video to make anew; --reverse-start-step says how much of it stays.")]
StartStep = Annotated[int, typer.Option(min=0, help="With --video: noise it to this sampler step and denoise; later keeps more.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="models:/NAME@champion or models:/NAME/3 (default: the champion of the only model, or of mugv)."),
]
Checkpoint = Annotated[str | None, typer.Option(help="URI or folder of a DiT checkpoint, instead of --model.")]
VAE = Annotated[str | None, typer.Option("--vae", help="URI or folder of the VAE for --checkpoint (default: its run's).")]
Interval = Annotated[str, typer.Option(metavar="LOW:HIGH", help="Timesteps (0 to 1000) with guidance; the others cost half.")]


def generate(
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .mp4, or .png with --frames 1.")] = Path("out.mp4"),
    image: Picture = None,
    last_image: LastPicture = None,
    continue_: Continue = None,
    continue_frames: ContinueFrames = None,
    video: Source = None,
    reverse_start_step: StartStep = 0,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Pixels, multiples of 16 (default: the checkpoint's).")] = None,
    frames: Annotated[int | None, typer.Option(help="1 + 8k; 1 makes a picture (default: the checkpoint's).")] = None,
    model: ModelName = None,
    checkpoint: Checkpoint = None,
    vae: VAE = None,
    seed: Annotated[int, typer.Option(min=0, help="Noise that the clip starts from.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampler steps.")] = 25,
    sampler: Annotated[str, typer.Option(help="euler, or ab2 for second order at the same cost.")] = "euler",
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 4.0,
    guidance_interval: Interval = "0:1000",
    guidance_rescale: Annotated[float, typer.Option(help="0 to 1: keep the conditional branch's contrast.")] = 0.0,
    dynamic_clamp: Annotated[bool, typer.Option("--dynamic-clamp", help="Clamp guidance as the release does.")] = False,
    negative: Annotated[str | None, typer.Option(help="What guidance leads away from (default: the empty text).")] = None,
    state: StateOption = None,
) -> None:
    """Text (and pictures) to video."""
    if model and checkpoint:
        raise UserError("--model and --checkpoint exclude each other; give one of them")
    # megatron-core warns at import that its GPU helpers are absent, which is no news to who makes a video.
    warnings.filterwarnings("ignore", module="megatron")
    _check_output(output, frames)
    start = _Start(image, last_image, continue_, continue_frames, video, reverse_start_step)
    start.check()
    pixels = _size(size)
    settings = _sampler(steps, sampler, guidance, guidance_interval, guidance_rescale, dynamic_clamp)
    dit_folder, vae_folder = _from_checkpoint(checkpoint, vae, state) if checkpoint else _from_registry(model, state)
    from mugv.generation import Generator

    generator = Generator.open(dit_folder, vae_folder)
    count = generator.frames if frames is None else frames
    generator.check(*(pixels or generator.size), count, settings)
    given = start.read(generator.fps, count)
    made = generator.generate([prompt], size=pixels, frames=count, seeds=[seed], sampler=settings, given=given, negative=negative)
    _write(output, made[0], generator)


@dataclass(frozen=True)
class _Start:
    """The flags about what the clip starts from."""

    image: Path | None
    last_image: Path | None
    continued: Path | None
    continued_frames: int | None
    video: Path | None
    start_step: int

    def check(self) -> None:
        """Everything that can be said before a model is loaded."""
        if self.image and self.continued:
            raise UserError("--image and --continue exclude each other: both say how the clip starts")
        if self.continued_frames is not None and (not self.continued or self.continued_frames % 8 != 1 or self.continued_frames < 1):
            raise UserError(f"--continue-frames {self.continued_frames}: must be 1 + 8k (1, 9, 17, ...), beside --continue")
        if (self.video is None) != (self.start_step == 0):
            raise UserError("--video and --reverse-start-step go together; a step of 1 changes most, the number of --steps nothing")
        for flag, path in (("image", self.image), ("last-image", self.last_image)):
            if path:
                _picture(flag, path)
        for flag, path in (("continue", self.continued), ("video", self.video)):
            if path and not path.is_file():
                raise UserError(f"--{flag} {path}: no such file")

    def read(self, fps: float, frames: int) -> Given:
        """What a clip of `frames` frames at `fps` frames a second is given."""
        from mugv.generation import Given

        first = _picture("image", self.image)[None, None] if self.image else None
        if self.continued:
            first = self._end(self.continued, fps, 1 + frames // 8)[None]
        last = _picture("last-image", self.last_image)[None, None] if self.last_image else None
        source = None
        if self.video:
            source = _video("video", self.video, fps, first=frames)[None]
            if source.shape[1] < frames:
                raise UserError(f"--video {self.video}: {source.shape[1]} frames at {fps:g} a second, the clip {frames}; lower --frames")
        return Given(first, last, source, self.start_step)

    def _end(self, path: Path, fps: float, latents: int) -> np.ndarray:
        """The last frames of a video: as many as asked for, else a quarter of the clip, two latents at least to show how things move."""
        wanted = self.continued_frames or 1 + 8 * (min(max(2, latents // 4), max(1, latents - 1)) - 1)
        found = _video("continue", path, fps, last=wanted)
        if self.continued_frames and len(found) < wanted:
            raise UserError(f"--continue-frames {wanted}: {path} has {len(found)} frames at {fps:g} a second")
        return found[(len(found) - 1) % 8 :]


def _check_output(output: Path, frames: int | None) -> None:
    if output.suffix == ".png" and frames != 1:
        raise UserError(f"-o {output}: a picture needs --frames 1; a video must end in .mp4")
    if output.suffix not in (".mp4", ".png"):
        raise UserError(f"-o {output}: must end in .mp4, or in .png with --frames 1")
    check_output("-o", output)
    if frames is not None:
        from mugv.generation.given import check_frames

        check_frames(frames)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not found:
        raise UserError(f"--size {text}: expected HEIGHTxWIDTH in pixels, for example 720x1280")
    from mugv.generation.given import check_size

    check_size(int(found[1]), int(found[2]))
    return int(found[1]), int(found[2])


def _sampler(steps: int, method: str, guidance: float, interval: str, rescale: float, clamp: bool) -> Sampler:
    from pydantic import ValidationError

    from mugv.recipe.flow import PUBLISHED_CLAMP, Sampler

    values: dict[str, Any] = {"steps": steps, "method": method, "guidance": guidance, "guidance_rescale": rescale}
    values |= {"guidance_interval": interval.split(":"), "dynamic_clamp": PUBLISHED_CLAMP if clamp else {}}
    try:
        return Sampler.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "guidance_interval"
        flag = {"method": "sampler"}.get(field, field.replace("_", "-"))
        given = interval if field == "guidance_interval" else values[field]
        hint = "; expected LOW:HIGH, timesteps from 0 to 1000" if field == "guidance_interval" else ""
        raise UserError(f"--{flag} {given}: {first['msg'].removeprefix('Value error, ')}{hint}") from None


def _picture(flag: str, path: Path) -> np.ndarray:
    """The picture as uint8 [H, W, 3]."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"--{flag} {path}: no such file") from None
    except (UnidentifiedImageError, OSError):
        raise UserError(f"--{flag} {path}: not a picture that can be read; expected PNG or JPEG") from None


def _video(flag: str, path: Path, fps: float, first: int | None = None, last: int | None = None) -> np.ndarray:
    """The first or the last frames of a video, resampled to `fps`: uint8 [T, H, W, 3]."""
    import numpy as np

    from mugv.media.decode import VideoReader, resample
    from mugv.media.probe import UnreadableVideoError

    try:
        pictures = (frame.rgb() for frame in resample(VideoReader(path), fps))
        return np.stack(deque(islice(pictures, first), maxlen=last))
    except UnreadableVideoError as error:
        raise UserError(f"--{flag} {path}: not a video that can be read ({error})") from None


def _write(output: Path, clip: np.ndarray, generator: Generator) -> None:
    from mugv.store import explained

    with explained(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix == ".png":
            from PIL import Image

            Image.fromarray(clip[0]).save(output)
        else:
            from mugv.media.encode import write_video

            write_video(output, clip, generator.fps)
    many = f"{clip.shape[0]} frames" if len(clip) > 1 else "a picture"
    typer.echo(f"wrote {output}: {many} of {clip.shape[2]}x{clip.shape[1]}" + (f" at {generator.fps:g} a second" if len(clip) > 1 else ""))


def _from_registry(model: str | None, state: Path | None) -> tuple[Path, Path]:
    from mugv.cli.models import model_name, open_registry

    registry = open_registry(state)
    artifacts = registry.download(registry.resolve(model or f"models:/{model_name(registry, None)}@champion"))
    return artifacts["checkpoint"], artifacts["vae"]


def _from_checkpoint(checkpoint: str, vae: str | None, state: Path | None) -> tuple[Path, Path]:
    folder = _folder(checkpoint, state)
    if vae:
        return folder, _folder(vae, state)
    from mugv.platform.records import all_runs

    for run in all_runs(existing_state(state)):
        stages = run.stages()
        if any(_is_output(stage.get("output", {}), checkpoint, folder) for stage in stages):
            made = run.stage("train_vae").get("output")
            if made:
                return folder, _folder(made["uri"], state)
    raise UserError(f"--checkpoint {checkpoint}: no run here made it, so its VAE is not known; give --vae")


def _is_output(output: dict[str, str], given: str, folder: Path) -> bool:
    return bool(output) and (output["uri"] == given or output["uri"] == folder.absolute().as_uri())


def _folder(uri: str, state: Path | None) -> Path:
    """A local folder for a plain folder or the URI of a published output."""
    if "://" not in uri:
        if not Path(uri).is_dir():
            raise UserError(f"{uri}: not a folder; give a folder or the URI of an output (`mugv show` lists them)")
        return Path(uri)
    from mugv.cli.common import state_folder
    from mugv.store import open_store

    root, stage, key = uri.rstrip("/").rsplit("/", 2)
    store = open_store(root, state_folder(state) / "cache")
    found: Ref | None = store.find(f"{stage}/{key}")
    if found is None:
        raise UserError(f"{uri}: no published output there; `mugv show` lists the outputs of a run")
    return store.fetch(found)
