"""Video files for tests, made with PyAV, and the curation stages run one after the other."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from recipes import small_recipe

from mugv.curation.rows import ClipRow
from mugv.dataset.clipset import ClipSet
from mugv.media.encode import write_video
from mugv.media.shapes import render, sample_motion, seen_combinations
from mugv.recipe import Recipe
from mugv.stages import curate, curate_shard, sample_footage, scan
from mugv.stages.base import StageContext

CURATION = {
    "shot": {"content_threshold": 9, "fade_threshold": 6, "gradual_threshold": 3, "minimum_frames": 8, "trim_frames": 2},
    "sharpness": {"short_side": 96, "minimum": 9},
    "motion": {"short_side": 96, "gap_seconds": 0.0833, "minimum": 0.12, "maximum": 1.9},
    **{key: {"minimum": None, "maximum": None} for key in ("contrast", "shake", "freeze", "blockiness", "exposure")},
    "text": {"detector": "off"},
    "duplicates": {"distance": 6},
    "clip": {"frames": 17, "fps": 12, "short_side": 96, "stride_frames": 17},
}


def shot(number: int = 0, frames: int = 26, size: int = 96) -> np.ndarray:
    """A clean shot uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(number)
    combination = seen_combinations()[(7 * number) % 60]
    return render(combination, sample_motion(combination, frames, rng), frames, size, rng)


def scaled(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest-neighbour, any aspect."""
    rows, columns = np.arange(height) * frames.shape[1] // height, np.arange(width) * frames.shape[2] // width
    return np.ascontiguousarray(frames[:, rows][:, :, columns])


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    rotation: int = 0,
    fps: int = 12,
    ticks: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    stream_tags: dict[str, str] | None = None,
) -> Path:
    """A file of uint8 [T, H, W, 3 or 4]; `times` in milliseconds makes the frame rate vary; `ticks`: each frame's place at `fps`."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.metadata.update(stream_tags or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if rotation:
            stream.set_display_rotation(rotation)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for k, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgba" if picture.shape[-1] == 4 else "rgb24")
            frame = frame.reformat(format=pixels)
            if times:
                frame.pts, frame.time_base = times[k], Fraction(1, 1000)
            if ticks:
                frame.pts, frame.time_base = ticks[k], Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def truncated(path: Path, frames: np.ndarray, share: float, index_first: bool) -> Path:
    """The first `share` of a file's bytes; without the index at the front nothing of it can be read."""
    whole = path.with_suffix(".whole.mp4")
    write_video(whole, frames, 12)
    if index_first:
        moved = path.with_suffix(".moved.mp4")
        with av.open(str(whole)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        moved.replace(whole)
    data = whole.read_bytes()
    whole.unlink()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def context(root: Path, name: str, recipe: Recipe, inputs: dict[str, Path] | None = None, index: int = 0) -> StageContext:
    out, work = root / name / "out", root / name / "work"
    out.mkdir(parents=True)
    work.mkdir(exist_ok=True)
    return StageContext(recipe=recipe, node=name, index=index, inputs=inputs or {}, refs={}, out=out, work=work)


def recipe_for(root: Path, *overrides: str, **curation: object) -> Recipe:
    root.mkdir(parents=True, exist_ok=True)
    return small_recipe(root, f"curation={json.dumps({**CURATION, **curation})}", *overrides)


def run_stages(root: Path, recipe: Recipe) -> Path:
    """footage (when the recipe has no videos), scan, every shard, curate; returns the clip set's folder."""
    inputs: dict[str, Path] = {}
    if recipe.data.videos is None:
        footage = context(root, "footage", recipe)
        sample_footage.run(footage)
        inputs["footage"] = footage.out
    return curate_stages(root, recipe, inputs)


def curate_stages(root: Path, recipe: Recipe, inputs: dict[str, Path]) -> Path:
    scanned = context(root, "scan", recipe, inputs)
    scan.run(scanned)
    parts = {}
    for i in range(recipe.data.shards):
        part = context(root, f"curate_shard-{i}", recipe, {"scan": scanned.out, **inputs}, i)
        curate_shard.run(part)
        parts[f"parts/{i}"] = part.out
    merged = context(root, "curate", recipe, parts)
    curate.run(merged)
    return merged.out


def curated(root: Path, videos: Path, **curation: object) -> list[ClipRow]:
    """All rows of a folder of videos; captions are optional."""
    recipe = recipe_for(root / "stages", f"data.videos={videos}", "data.shards=1", **{"require_caption": False, **curation})
    return ClipSet.open(run_stages(root / "stages", recipe)).rows(status=None)
