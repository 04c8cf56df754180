"""The sample footage: raw multi-shot MP4 files of moving shapes with captions, planted defects, and the truth about both.

`plan` decides everything from the seed alone; `write_file` renders one file of the plan, so files can be made in any
order and by several processes. Times are frames of the file unless a name says seconds.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from mugv.media.decode import read_video
from mugv.media.encode import write_video
from mugv.media.shapes import DIRECTIONS, TEMPLATES, Combination, Motion, render, sample_motion, seen_combinations
from mugv.recipe.schema import SampleFootage

Kind = Literal["clean", "blur", "frozen", "fast", "duplicate"]
Join = Literal["cut", "crossfade", "fade", "end"]
DEFECTS: tuple[Kind, ...] = ("blur", "frozen", "fast", "duplicate")
DEFECT_SHARE = 0.02
"""Shots of each planted defect, as a share of the clean shots; at least one."""
JOINS: tuple[Join, ...] = ("cut", "crossfade", "fade")
JOIN_SHARES = (0.84, 0.08, 0.08)
JOIN_FRAMES = (6, 9)
"""Length of a cross-fade; a fade to black takes as long down as up, with two black frames between."""
BLACK_FRAMES = 2


@dataclass(frozen=True)
class Shot:
    """One planned shot. `seed` fixes its pixels, so a duplicate is a shot with the seed of another."""

    combination: Combination
    template: int
    frames: int
    kind: Kind
    seed: int
    join: Join
    """How it passes into the next shot of its file."""
    join_frames: int
    of: str = ""
    """Seed of the original, for a duplicate."""


@dataclass(frozen=True)
class File:
    name: str
    kind: Literal["footage", "copy", "reencoded", "truncated", "text"]
    shots: tuple[Shot, ...]
    of: str = ""
    """Name of the file that this one repeats."""


def plan(sample: SampleFootage) -> tuple[File, ...]:
    """Every file of the footage. At least two hold clean shots, so that a split by source is possible."""
    rng = np.random.default_rng([sample.seed, 0])
    clean = _clean_shots(sample, rng)
    per_file = min(sample.shots_per_file, -(-len(clean) // 2))
    groups = [clean[k : k + per_file] for k in range(0, len(clean), per_file)]
    _plant_defects(groups, sample, rng)
    files = [File(f"shots_{k:03d}.mp4", "footage", _joined(group, rng)) for k, group in enumerate(groups)]
    again = files[min(1, len(files) - 1)]
    broken = [_new_shot(c, "clean", sample, rng) for c in seen_combinations()[: min(6, per_file)]]
    return (
        *files,
        File(files[0].name.replace(".mp4", "_copy.mp4"), "copy", files[0].shots, files[0].name),
        File(again.name.replace(".mp4", "_reencoded.mp4"), "reencoded", again.shots, again.name),
        File("truncated.mp4", "truncated", _joined(broken, rng)),
        File("not_a_video.mp4", "text", ()),
    )


def _clean_shots(sample: SampleFootage, rng: np.random.Generator) -> list[Shot]:
    seen = seen_combinations()
    order = rng.permutation([k % len(seen) for k in range(sample.shots)])
    return [_new_shot(seen[k], "clean", sample, rng) for k in order]


def _new_shot(combination: Combination, kind: Kind, sample: SampleFootage, rng: np.random.Generator) -> Shot:
    frames = int(rng.integers(sample.shot_frames[0], sample.shot_frames[1] + 1))
    return Shot(combination, int(rng.integers(len(TEMPLATES))), frames, kind, int(rng.integers(1 << 31)), "cut", 0)


def _plant_defects(groups: list[list[Shot]], sample: SampleFootage, rng: np.random.Generator) -> None:
    """Insert defective shots into the groups; a duplicate always comes after its original."""
    seen = seen_combinations()
    originals = [(g, shot) for g, group in enumerate(groups) for shot in group]
    for kind in DEFECTS:
        for _ in range(max(1, round(DEFECT_SHARE * sample.shots))):
            if kind == "duplicate":
                home, original = originals[int(rng.integers(len(originals)))]
                target = int(rng.integers(home, len(groups)))
                at = len(groups[target]) if target == home else int(rng.integers(len(groups[target]) + 1))
                groups[target].insert(at, replace(original, kind=kind, of=str(original.seed)))
            else:
                target = int(rng.integers(len(groups)))
                shot = _new_shot(seen[int(rng.integers(len(seen)))], kind, sample, rng)
                groups[target].insert(int(rng.integers(len(groups[target]) + 1)), shot)


def _joined(group: list[Shot], rng: np.random.Generator) -> tuple[Shot, ...]:
    joins = [JOINS[int(k)] for k in rng.choice(len(JOINS), len(group), p=JOIN_SHARES)]
    joins[-1] = "end"
    lengths = [int(rng.integers(*JOIN_FRAMES)) if join in ("crossfade", "fade") else 0 for join in joins]
    return tuple(replace(shot, join=join, join_frames=n) for shot, join, n in zip(group, joins, lengths, strict=True))


def truth(file: File, fps: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the truth about a file, its caption lines). Ranges are half open and cover whole shots without their transitions."""
    shots, captions, at = [], [], 0
    for shot in file.shots:
        end = at + shot.frames
        black = BLACK_FRAMES + shot.join_frames if shot.join == "fade" else 0
        over = end + shot.join_frames + black
        after = {"kind": shot.join, "start": end, "end": over}
        entry = asdict(shot.combination) | {"start": at, "end": end, "kind": shot.kind, "transition": after}
        shots.append(entry | ({"of": shot.of} if shot.of else {"id": str(shot.seed)}))
        caption = shot.combination.caption(shot.template)
        captions.append({"source": file.name, "start": round(at / fps, 4), "end": round(end / fps, 4), "caption": caption})
        at = over
    return {"kind": file.kind, "of": file.of, "frames": at, "shots": shots}, captions


def write_file(file: File, folder: Path, sample: SampleFootage) -> None:
    """Render and write one file. A copy waits for nobody: it is rendered again, and the encoder repeats itself exactly."""
    path = folder / file.name
    if file.kind == "text":
        path.write_text("This is a text file with the name of a video.\n")
        return
    frames = assemble([_shot_frames(file.shots, k, sample.size) for k in range(len(file.shots))], file.shots)
    write_video(path, frames, sample.fps, crf=26 if file.kind == "reencoded" else 14)
    if file.kind == "truncated":
        _truncate(path)


def assemble(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], shots: tuple[Shot, ...]) -> np.ndarray:
    """Join (lead, body, tail) of every shot: cross-fades blend a tail with the next lead, fades pass through black."""
    pieces = []
    for k, (_, body, tail) in enumerate(parts):
        pieces.append(body)
        n = shots[k].join_frames
        down = 1 - (np.arange(n) + 1).reshape(-1, 1, 1, 1) / (n + 1)
        if shots[k].join == "crossfade":
            pieces.append(np.round(tail * down + parts[k + 1][0] * (1 - down)).astype(np.uint8))
        elif shots[k].join == "fade":
            lead = parts[k + 1][0]
            pieces.append(np.round(tail * down).astype(np.uint8))
            pieces.append(np.zeros((BLACK_FRAMES, *body.shape[1:]), np.uint8))
            pieces.append(np.round(lead * (1 - down)).astype(np.uint8))
    return np.concatenate(pieces)


def _shot_frames(shots: tuple[Shot, ...], k: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames before, during and after shot k; those outside belong to its transitions and show the motion going on."""
    shot = shots[k]
    lead = shots[k - 1].join_frames if k else 0
    frames = _render(shot, lead, shot.join_frames, size)
    if shot.kind == "blur":
        frames = np.stack([cv2.GaussianBlur(f, (0, 0), 0.035 * size) for f in frames])
    elif shot.kind == "duplicate":
        buffer = io.BytesIO()
        write_video(buffer, frames, 12, crf=26)
        buffer.seek(0)
        frames = read_video(buffer)[0]
    end = lead + shot.frames
    return frames[:lead], frames[lead:end], frames[end:]


def _render(shot: Shot, lead: int, tail: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(shot.seed)
    motion = sample_motion(shot.combination, shot.frames, rng)
    if shot.kind == "fast":
        return _bouncing(shot, motion, lead + shot.frames + tail, size, rng)
    if shot.kind == "frozen":
        motion = replace(motion, speed=0.0)
    step_x, step_y = DIRECTIONS[shot.combination.direction]
    back = lead * motion.speed
    motion = replace(motion, x=motion.x - step_x * back, y=motion.y - step_y * back)
    return render(shot.combination, motion, lead + shot.frames + tail, size, np.random.default_rng(shot.seed + 1))


def _bouncing(shot: Shot, motion: Motion, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """The shape crosses a tenth of the picture each frame and bounces off the borders."""
    speed = rng.uniform(0.10, 0.12)
    horizontal = bool(DIRECTIONS[shot.combination.direction][0])
    clip = []
    for t in range(frames):
        place = 0.2 + 0.6 * abs((t * speed / 0.6 + 1) % 2 - 1)
        here = replace(motion, x=place if horizontal else motion.x, y=motion.y if horizontal else place, speed=0.0)
        clip.append(render(shot.combination, here, 1, size, np.random.default_rng(shot.seed + 1))[0])
    return np.stack(clip)


def _truncate(path: Path) -> None:
    """Move the index to the front, then cut the file after two thirds: its first shots decode, the rest is gone."""
    import av

    whole = path.with_suffix(".whole")
    shutil.move(path, whole)
    with av.open(str(whole)) as source, av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    whole.unlink()
