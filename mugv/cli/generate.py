"""`mugv generate`: text (and a first frame) to a video file, from the champion, another version, or a checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mugv.cli.common import StateOption, existing_state
from mugv.errors import UserError

if TYPE_CHECKING:
    from mugv.store.base import Ref

CHAMPION = "models:/mugv@champion"


def generate(
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Video file to write (.mp4).")] = Path("out.mp4"),
    image: Annotated[Path | None, typer.Option("--image", help="Picture that becomes the first frame.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help=f"models:/NAME@champion or models:/NAME/VERSION (default {CHAMPION}).")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="URI or folder of a DiT checkpoint, instead of --model.")] = None,
    vae: Annotated[str | None, typer.Option("--vae", help="URI or folder of the VAE for --checkpoint (default: its run's).")] = None,
    seed: int = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampler steps.")] = 25,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 4.0,
    state: StateOption = None,
) -> None:
    """Text (and a first frame) to video."""
    if model and checkpoint:
        raise UserError("--model and --checkpoint exclude each other; give one of them")
    if output.suffix != ".mp4":
        raise UserError(f"-o {output}: must end in .mp4")
    first = _picture(image)
    dit_folder, vae_folder = _from_checkpoint(checkpoint, vae, state) if checkpoint else _from_registry(model or CHAMPION, state)
    # megatron-core warns at import that its GPU helpers are absent, which is no news to who makes a video.
    warnings.filterwarnings("ignore", module="megatron")
    from mugv.generation import Generator
    from mugv.media.encode import write_video
    from mugv.store import explained

    generator = Generator.open(dit_folder, vae_folder)
    clip = generator.generate([prompt], seeds=[seed], steps=steps, guidance=guidance, first_frames=first)[0]
    with explained(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_video(output, clip, generator.fps)
    typer.echo(f"wrote {output}: {clip.shape[0]} frames of {clip.shape[2]}x{clip.shape[1]} at {generator.fps:g} a second")


def _picture(path: Path | None):  # type: ignore[no-untyped-def]
    """The picture as uint8 [1, H, W, 3]."""
    if path is None:
        return None
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        return np.asarray(Image.open(path).convert("RGB"))[None]
    except FileNotFoundError:
        raise UserError(f"--image {path}: no such file") from None
    except (UnidentifiedImageError, OSError):
        raise UserError(f"--image {path}: not a picture that can be read; expected PNG or JPEG") from None


def _from_registry(model: str, state: Path | None) -> tuple[Path, Path]:
    from mugv.cli.models import open_registry

    registry = open_registry(state)
    artifacts = registry.download(registry.resolve(model))
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
