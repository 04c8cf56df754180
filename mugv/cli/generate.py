"""`mugv generate`: text and given pictures to a video file, from the champion, another version, or a checkpoint."""

from __future__ import annotations

import re
import secrets
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mugv.cli.common import StateOption, check_output, existing_state, talk
from mugv.cli.generate_start import Start
from mugv.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from mugv.generation import Generator
    from mugv.generation.room import Tiles
    from mugv.store.base import Ref

MODEL_S = "(default: the model's)"
Picture = Annotated[Path | None, typer.Option(help="Picture that becomes the first frame; the clip stands or lies as it does.")]
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
Interval = Annotated[str | None, typer.Option(metavar="LOW:HIGH", help="Timesteps (0 to 1000) with guidance; the others cost half.")]
Clamp = Annotated[bool | None, typer.Option("--dynamic-clamp/--no-dynamic-clamp", help="Clamp guidance as the release can.")]
Suffix = Annotated[str | None, typer.Option(help=f"Follows the prompt {MODEL_S}.")]
Negative = Annotated[str | None, typer.Option(help=f"What guidance leads away from {MODEL_S}; mostly the empty text).")]
Fps = Annotated[float | None, typer.Option(min=0.1, max=1000, help=f"Frames a second of the file {MODEL_S}.")]
Format = Annotated[str | None, typer.Option(help="Of the VAE alone: auto, fp32 or bf16.")]
TextFormat = Annotated[str | None, typer.Option(help="Of the T5 text encoder alone: auto, fp32 or bf16.")]
Tile = Annotated[str, typer.Option(metavar="HxW", help="Tiles in which the VAE takes a frame: auto (by free memory), none, or pixels.")]


def generate(
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .mp4, or .png with --frames 1.")] = Path("out.mp4"),
    image: Picture = None,
    last_image: LastPicture = None,
    continue_: Continue = None,
    continue_frames: ContinueFrames = None,
    video: Source = None,
    reverse_start_step: StartStep = 0,
    size: Annotated[str | None, typer.Option(metavar="HxW", help=f"Pixels, multiples of 16 {MODEL_S}, turned as --image is).")] = None,
    frames: Annotated[int | None, typer.Option(help=f"1 + 8k; 1 makes a picture {MODEL_S}.")] = None,
    fps: Fps = None,
    model: ModelName = None,
    checkpoint: Checkpoint = None,
    vae: VAE = None,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Noise that the clip starts from.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help=f"Sampler steps {MODEL_S}.")] = None,
    sampler: Annotated[str | None, typer.Option(help=f"euler, or ab2 for second order at the same cost {MODEL_S}.")] = None,
    guidance: Annotated[float | None, typer.Option(help=f"Guidance scale {MODEL_S}.")] = None,
    guidance_interval: Interval = None,
    guidance_rescale: Annotated[float | None, typer.Option(help="0 to 1: keep the conditional branch's contrast.")] = None,
    dynamic_clamp: Clamp = None,
    suffix: Suffix = None,
    negative: Negative = None,
    precision: Annotated[str, typer.Option(help="auto (bf16 on a GPU, fp32 on a CPU), fp32 or bf16.")] = "auto",
    vae_precision: Format = None,
    text_precision: TextFormat = None,
    tile: Tile = "auto",
    state: StateOption = None,
) -> None:
    """Text (and pictures) to video."""
    if model and checkpoint:
        raise UserError("--model and --checkpoint exclude each other; give one of them")
    # megatron-core warns at import that its GPU helpers are absent, which is no news to who makes a video.
    warnings.filterwarnings("ignore", module="megatron")
    _check_output(output, frames)
    start = Start(image, last_image, continue_, continue_frames, video, reverse_start_step)
    start.check()
    pixels, tiling = _size("size", size), _tiling(tile)
    flags = _sampler_flags(steps, sampler, guidance, guidance_interval, guidance_rescale, dynamic_clamp)
    formats = _formats(precision, vae_precision, text_precision)
    found = _from_checkpoint(checkpoint, vae, state) if checkpoint else _from_registry(model, state)
    from mugv.generation import Generator
    from mugv.generation.given import turned
    from mugv.generation.room import memory_explained

    with memory_explained(f"{found['checkpoint']}"):
        generator = Generator.open(**found, **formats, tiling=tiling)
    settings = generator.usage.sampler.model_copy(update=flags)
    count, rate = generator.frames if frames is None else frames, fps or generator.file_fps
    pixels = pixels or turned(generator.size, start.shape())
    generator.check(*pixels, count, settings)
    given = start.read(rate, count)
    _say(start.notes, generator, suffix, negative, rate)
    with memory_explained(f"{pixels[0]}x{pixels[1]}, {count} frames"):
        made = generator.generate(
            [prompt], size=pixels, frames=count, seeds=[seed], sampler=settings, given=given, suffix=suffix, negative=negative
        )
    _write(output, made[0], rate)


def _say(notes: list[str], generator: Generator, suffix: str | None, negative: str | None, rate: float) -> None:
    """What the checkpoint adds to the flags, and what was done with the pictures: on the error output, a line each."""
    usage = generator.usage
    if suffix is None and usage.prompt_suffix:
        notes.append(f"the prompt is followed by {usage.prompt_suffix!r}, as the checkpoint asks (--suffix)")
    if negative is None and usage.negative:
        notes.append(f"guidance leads away from {usage.negative!r}, as the checkpoint asks (--negative)")
    elif negative is None and usage.prompt_suffix:
        notes.append("guidance leads away from the empty text: the checkpoint names no other (--negative, or mugv convert --negative)")
    if rate != generator.fps:
        notes.append(f"the network is told {generator.fps:g} frames a second, the file plays at {rate:g} (--fps)")
    for note in () if talk.quiet else notes:
        typer.echo(note, err=True)


def _check_output(output: Path, frames: int | None) -> None:
    """Everything that would keep the clip from being written is said before it is made."""
    suffix = output.suffix.lower()
    if suffix == ".png" and frames != 1:
        raise UserError(f"-o {output}: a picture needs --frames 1; a video must end in .mp4")
    if suffix not in (".mp4", ".png"):
        raise UserError(f"-o {output}: must end in .mp4, or in .png with --frames 1")
    if frames is not None:
        from mugv.generation.given import check_frames

        check_frames(frames)
    if output.is_dir():
        raise UserError(f"-o {output}: is a folder; give the name of a file")
    check_output("-o", output)


def _size(flag: str, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not found:
        raise UserError(f"--{flag} {text}: expected HEIGHTxWIDTH in pixels, for example 720x1280")
    from mugv.generation.given import check_size

    check_size(int(found[1]), int(found[2]))
    return int(found[1]), int(found[2])


def _tiling(text: str) -> Tiles:
    if text == "auto":
        return "auto"
    sides = None if text == "none" else _size("tile", text)
    if sides is None:
        return None
    from mugv.vae import Tiling

    return Tiling(*sides, overlap=min(64, min(sides) // 16 * 8))


def _formats(precision: str, vae: str | None, text: str | None) -> dict[str, Any]:
    """The precisions that Generator.open takes."""
    given = {"precision": precision, "vae_precision": vae, "text_precision": text}
    for name, value in given.items():
        if value not in ("auto", "fp32", "bf16", None):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be auto, fp32 or bf16")
    return given


def _sampler_flags(
    steps: int | None, method: str | None, guidance: float | None, interval: str | None, rescale: float | None, clamp: bool | None
) -> dict[str, Any]:
    """The values of the flags that were given, checked, by the sampler's names."""
    from pydantic import ValidationError

    from mugv.recipe.flow import PUBLISHED_CLAMP, Sampler

    table = None if clamp is None else PUBLISHED_CLAMP if clamp else {}
    values: dict[str, Any] = {"steps": steps, "method": method, "guidance": guidance, "guidance_rescale": rescale, "dynamic_clamp": table}
    values["guidance_interval"] = interval.split(":") if interval is not None else None
    values = {name: value for name, value in values.items() if value is not None}
    try:
        checked = Sampler.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "guidance_interval"
        flag = {"method": "sampler"}.get(field, field.replace("_", "-"))
        given = interval if field == "guidance_interval" else values[field]
        hint = "; expected LOW:HIGH, timesteps from 0 to 1000" if field == "guidance_interval" else ""
        raise UserError(f"--{flag} {given}: {first['msg'].removeprefix('Value error, ')}{hint}") from None
    return {name: getattr(checked, name) for name in values}


def _write(output: Path, clip: np.ndarray, fps: float) -> None:
    """Beside its place, then renamed: what had the name before is kept until the new file is whole."""
    from mugv.store import explained

    suffix = output.suffix.lower()
    temporary = output.with_name(f".{output.stem}.{secrets.token_hex(8)}{suffix}")
    with explained(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            if suffix == ".png":
                from PIL import Image

                Image.fromarray(clip[0]).save(temporary)
            else:
                from mugv.media.encode import write_video

                write_video(temporary, clip, fps)
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)
    many = f"{clip.shape[0]} frames" if len(clip) > 1 else "a picture"
    typer.echo(f"wrote {output}: {many} of {clip.shape[2]}x{clip.shape[1]}" + (f" at {fps:g} a second" if len(clip) > 1 else ""))


def _from_registry(model: str | None, state: Path | None) -> dict[str, Any]:
    """What Generator.open takes: a version knows the sampler that it was evaluated with, beside its networks."""
    from mugv.cli.models import model_name, open_registry

    with open_registry(state) as registry:
        artifacts = registry.download(registry.resolve(model or f"models:/{model_name(registry, None)}@champion"))
    names = {"checkpoint": "checkpoint", "vae": "vae", "evaluation": "evaluated"}
    return {names[name]: path for name, path in artifacts.items() if name in names}


def _from_checkpoint(checkpoint: str, vae: str | None, state: Path | None) -> dict[str, Any]:
    folder = _folder(checkpoint, state)
    if vae:
        return {"checkpoint": folder, "vae": _folder(vae, state)}
    from mugv.platform.records import all_runs

    for run in all_runs(existing_state(state)):
        stages = run.stages()
        if any(_is_output(stage.get("output", {}), checkpoint, folder) for stage in stages):
            made = run.stage("train_vae").get("output")
            if made:
                return {"checkpoint": folder, "vae": _folder(made["uri"], state)}
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

    root, stage, key = ["", "", *uri.rstrip("/").rsplit("/", 2)][-3:]
    if not (root and stage and key):
        raise UserError(f"{uri}: names no output; `mugv show` lists the outputs of a run")
    store = open_store(root, state_folder(state) / "cache")
    found: Ref | None = store.find(f"{stage}/{key}")
    if found is None:
        raise UserError(f"{uri}: no published output there; `mugv show` lists the outputs of a run")
    return store.fetch(found)
