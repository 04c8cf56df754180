"""Footage with known truth for the figures of curation: files like real ones, cut together from textured takes, with planted defects.

    python -m benchmarks.curation_footage OUT --seed 0 --look a

writes the videos, their captions and `truth.json`:
{"files": {name: {"fps", "frames", "size": [rows, columns],
  "boundaries": [{"kind": "cut|crossfade|fade|whitefade", "start": first frame of the transition, "end": first frame of the new shot}],
  "flashes": [[first, past the last], ...], "corrupt": [visibly damaged frames, same form], "touched": [all frames that differ],
  "shots": [{"start", "end" (without the transitions beside it), "kind", "id", ...}]}}}
A shot's `kind`: clean, title, shake, whip, occluder, dark, or a defect: blur, freeze, fast, duplicate, text, border, corrupt.
`defect` holds the frames that show it where it is not the whole shot, `box` the picture inside a border (left, top, width, height),
`of` the id of a duplicate's original, `shift` how many frames later than the original it starts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curation_defects import Overlay, blurred, bordered, corrupt, encode, fast_camera, recoded, sampled_box, title
from benchmarks.curation_scenes import LOOKS, Look, Size, Take, sampled_look

DEFECTS = ("blur", "freeze", "fast", "duplicate", "text", "border")
TEMPTING = ("shake", "whip", "occluder", "dark")
"""No defect of the list, and no boundary: what a detector may take for one."""
SIZES: tuple[Size, ...] = ((480, 854), (360, 640), (480, 854), (480, 640), (270, 480), (404, 720), (480, 854), (640, 360))
RATES = {"a": (24.0, 25.0, 30.0), "b": (25.0, 24000 / 1001, 30.0, 30000 / 1001)}
JOINS = (("cut", 0.60), ("match", 0.12), ("crossfade", 0.16), ("fade", 0.09), ("whitefade", 0.03))
"""match: a cut to another take in the same colours."""


@dataclass(frozen=True)
class Shot:
    kind: str
    seed: int
    seconds: float
    look: Look
    join: str = "cut"
    """How it passes into the next shot."""
    join_frames: int = 0
    """Length of the whole transition."""
    flashes: tuple[tuple[int, int], ...] = ()
    of: Shot | None = None
    shift: int = 0

    @property
    def id(self) -> str:
        return f"{self.seed:08x}"


@dataclass(frozen=True)
class File:
    name: str
    size: Size
    fps: float
    crf: int
    gop: int
    shots: tuple[Shot, ...]
    damage: int = 0
    """Places where the written stream is damaged."""


def plan(
    seed: int, look: str, shots: int = 130, each: int = 14, damaged: int = 2, per_file: int = 26, sizes: Sequence[Size] = SIZES
) -> tuple[File, ...]:
    """`shots` clean ones, `each` of every defect, half as many of every tempting kind and of title cards, `damaged` damaged files."""
    rng, worlds = np.random.default_rng([seed, 77]), LOOKS[look]
    kinds = ["clean"] * shots + [k for k in DEFECTS for _ in range(each) if k != "duplicate"]
    kinds += [k for k in (*TEMPTING, "title") for _ in range(max(1, each // 2))]
    made = [_shot(kind, worlds, rng) for kind in (kinds[int(k)] for k in rng.permutation(len(kinds)))]
    groups = [made[k : k + per_file] for k in range(0, len(made), per_file)]
    _plant_duplicates(groups, each, sizes, rng)
    originals = {shot.of.id for group in groups for shot in group if shot.of}
    files = [_file(f"{look}{k:02d}.mp4", group, k, look, rng, sizes, originals) for k, group in enumerate(groups)]
    broken = [[_shot("clean", worlds, rng) for _ in range(12)] for _ in range(damaged)]
    ruined = [_file(f"{look}_damaged{k}.mp4", group, k, look, rng, sizes) for k, group in enumerate(broken)]
    return (*files, *(replace(file, gop=48, damage=8) for file in ruined))


def _shot(kind: str, worlds: tuple[str, ...], rng: np.random.Generator) -> Shot:
    look = sampled_look(rng, worlds)
    seconds = float(rng.uniform(1.2, 3.4) if kind == "clean" else rng.uniform(2.2, 3.4))
    if kind == "shake":
        look = replace(look, camera=replace(look.camera, shake=float(rng.uniform(0.02, 0.05))))
    elif kind == "whip":
        whip = (float(rng.uniform(0.8, 1.2)), float(rng.uniform(0.25, 0.5)), float(rng.choice([-1, 1]) * rng.uniform(0.8, 1.5)))
        look = replace(look, camera=replace(look.camera, whip=whip))
    elif kind == "occluder":
        look = replace(look, close=float(rng.uniform(0.7, 1.2)))
    elif kind == "dark":
        look = replace(look, gain=float(rng.uniform(0.18, 0.35)))
    elif kind == "fast":
        look = fast_camera(look, rng)
    frames = int(24 * seconds)
    flash = int(rng.integers(10, frames - 14)) if kind == "clean" and rng.random() < 0.12 else None
    flashes = () if flash is None else ((flash, flash + int(rng.integers(1, 5))),)
    return Shot(kind, int(rng.integers(1 << 31)), seconds, look, flashes=flashes)


def _plant_duplicates(groups: list[list[Shot]], each: int, sizes: Sequence[Size], rng: np.random.Generator) -> None:
    """A duplicate stands in a later file than its original, of the same aspect, and starts up to six frames later in the take."""
    for _ in range(each):
        while True:
            home, target = sorted(int(k) for k in rng.choice(len(groups), 2, replace=len(groups) == 1))
            same = abs(np.divide(*sizes[home % len(sizes)]) - np.divide(*sizes[target % len(sizes)])) < 0.02
            able = [s for s in groups[home] if s.kind == "clean" and s.seconds > 2 and not s.flashes]
            if same and able:
                break
        original = able[int(rng.integers(len(able)))]
        seed, shift = original.seed ^ int(rng.integers(1 << 30)), int(rng.integers(0, 7))
        again = replace(original, kind="duplicate", seed=seed, of=original, shift=shift)
        after = len(groups[target]) if home == target else int(rng.integers(len(groups[target])))
        groups[target].insert(after, again)


def _file(
    name: str, group: list[Shot], k: int, look: str, rng: np.random.Generator, sizes: Sequence[Size], originals: Collection[str] = ()
) -> File:
    """Draw how the shots are joined, then what holds for the whole file. The look of a duplicate's original is left as it is."""
    names, weights = zip(*JOINS, strict=True)
    joined: list[Shot] = []
    for n, shot in enumerate(group):
        join = str(rng.choice(names, p=weights))
        if joined and joined[-1].join == "match":
            shot = replace(shot, look=replace(shot.look, palette=joined[-1].look.palette))
        beside = [shot, *group[n + 1 : n + 2]]
        if join == "match" and any(s.kind in ("title", "dark", "duplicate") or s.id in originals for s in beside):
            join = "cut"
        length = {"crossfade": (6, 25), "fade": (12, 41), "whitefade": (10, 25)}.get(join)
        last = n == len(group) - 1
        joined.append(replace(shot, join="end" if last else join, join_frames=int(rng.integers(*length)) if length and not last else 0))
    size, fps = sizes[k % len(sizes)], RATES[look][k % len(RATES[look])]
    return File(name, size, fps, int(rng.integers(20, 28)), 250, tuple(joined))


class Rendered:
    """A shot's frames: `at(k)` uint8 [H, W, 3], k counted from the shot's first full frame, outside it during its transitions."""

    def __init__(self, shot: Shot, file: File, originals: dict[str, Size]) -> None:
        rng = np.random.default_rng([shot.seed, 9])
        self.shot, self.size, self.fps = shot, file.size, file.fps
        self.frames = max(12, round(shot.seconds * file.fps)) - shot.shift
        self.take: Take | None = None
        if shot.of is not None:
            self.again = recoded(Take(shot.of.seed, originals[shot.of.id], shot.of.look), self, rng)
        elif shot.kind == "title":
            self.again = title(self.size, rng)
        else:
            self.take = Take(shot.seed, self.size, shot.look)
        self.still = self._still(rng)
        self.text = Overlay(self.size, self.frames, rng) if shot.kind == "text" else None
        self.box = sampled_box(self.size, rng) if shot.kind == "border" else None
        self.sigma = float(rng.uniform(0.009, 0.02)) * min(self.size)
        self.smear = bool(rng.random() < 0.3)

    def _still(self, rng: np.random.Generator) -> tuple[int, int] | None:
        """Where the picture stands: the whole shot, or a stretch of 1 to 1.6 s in it."""
        if self.shot.kind != "freeze":
            return None
        if rng.random() < 0.5:
            return -1000, 1000
        lasts = round(rng.uniform(1.0, 1.6) * self.fps)
        first = int(rng.integers(4, max(5, self.frames - lasts - 4)))
        return first, min(first + lasts, self.frames)

    def at(self, k: int) -> np.ndarray:
        if self.take is None:
            return self.again(k)
        if self.still and k >= self.still[0]:
            k = self.still[0] if k < self.still[1] else k - (self.still[1] - self.still[0])
        picture = self.take.at(max(k, -60) / self.fps)
        if self.shot.kind == "blur":
            picture = blurred(picture, self.sigma, self.smear)
        if any(a <= k < b for a, b in self.shot.flashes):
            picture = (255 - (255 - picture.astype(np.float32)) * 0.15).astype(np.uint8)
        if self.box:
            picture = bordered(picture, self.box)
        return self.text(picture, k) if self.text else picture

    def truth(self, start: int) -> dict[str, Any]:
        entry: dict[str, Any] = {"start": start, "end": start + self.frames, "kind": self.shot.kind, "id": self.shot.id}
        if self.shot.of:
            entry |= {"of": self.shot.of.id, "shift": self.shot.shift}
        if self.still and self.still[0] > 0:
            entry["defect"] = [start + self.still[0], start + self.still[1]]
        if self.text:
            entry |= {"defect": [start + self.text.first, start + self.frames], "style": self.text.style}
        if self.box:
            entry["box"] = list(self.box)
        return entry


def pictures(file: File, originals: dict[str, Size], truth: dict[str, Any]) -> Iterator[np.ndarray]:
    """Every frame of a file in order; fills `truth` while it goes."""
    at, last, before = 0, None, 0
    truth |= {"fps": file.fps, "size": list(file.size), "boundaries": [], "flashes": [], "shots": []}
    for shot in file.shots:
        now = Rendered(shot, file, originals)
        if last is not None:
            kind = "cut" if last.shot.join == "match" else last.shot.join
            truth["boundaries"].append({"kind": kind, "start": at, "end": at + before, "match": last.shot.join == "match"})
            for k in range(before):
                yield _blend(last.at(last.frames + k), now.at(k - before), kind, k, before)
            at += before
        truth["flashes"] += [[at + a, at + b] for a, b in shot.flashes if a < now.frames]
        truth["shots"].append(now.truth(at))
        yield from (now.at(k) for k in range(now.frames))
        at, last, before = at + now.frames, now, shot.join_frames
    truth["frames"] = at


def _blend(old: np.ndarray, new: np.ndarray, kind: str, k: int, length: int) -> np.ndarray:
    """Frame k of a transition: a linear mix, or down to black or white, up to four frames of it, and up again."""
    if kind == "crossfade":
        share = (k + 1) / (length + 1)
        return np.round(old * (1 - share) + new * share).astype(np.uint8)
    hold = min(4, length // 4)
    half, level = (length - hold) / 2, 0.0 if kind == "fade" else 250.0
    picture, share = (old, 1 - (k + 1) / half) if k < length / 2 else (new, 1 - (length - k) / half)
    share = max(0.0, min(1.0, share))
    return np.round(picture * share + level * (1 - share)).astype(np.uint8)


def write(folder: Path, files: tuple[File, ...]) -> dict[str, Any]:
    """Render, encode and damage every file; writes captions.jsonl and truth.json, returns the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    originals = {shot.id: file.size for file in files for shot in file.shots}
    known: dict[str, Any] = {"files": {}}
    captions = []
    for file in files:
        truth: dict[str, Any] = {}
        encode(folder / file.name, pictures(file, originals, truth), file.fps, file.crf, file.gop)
        truth |= {"corrupt": [], "touched": []}
        if file.damage:
            corrupt(folder / file.name, truth, file.damage, np.random.default_rng([file.shots[0].seed, 5]))
        known["files"][file.name] = truth
        for n, shot in enumerate(truth["shots"]):
            words = f"Take {n} of {file.name}: textured shapes move through a scene while the camera drifts."
            captions.append({"source": file.name, "start": shot["start"] / file.fps, "end": shot["end"] / file.fps, "caption": words})
        (folder / "truth.json").write_text(json.dumps(known))
        print(f"{file.name}: {truth['frames']} frames, {len(truth['shots'])} shots", flush=True)
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in captions))
    return known


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curation_footage", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--look", choices=tuple(LOOKS), default="a")
    parser.add_argument("--shots", type=int, default=130)
    parser.add_argument("--each", type=int, default=14)
    given = parser.parse_args()
    write(given.out, plan(given.seed, given.look, given.shots, given.each))


if __name__ == "__main__":
    main()
