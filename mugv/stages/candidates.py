"""Stage `candidates`: clips that the model generates of prompts outside the evaluation set, with labels (paper 2.2, preference sets).

Output: candidates.safetensors (final latents, texts), candidates.json, labels.jsonl, clips.tar with an MP4 a candidate for people to see.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mugv.stages.base import StageContext

if TYPE_CHECKING:
    import numpy as np

    from mugv.generation import Generator


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: checkpoint, vae, latents. A label file from the recipe is checked against the candidates when it is used."""
    from mugv.generation import Generator

    precision = ctx.recipe.parallel.precision
    generator = Generator.open(ctx.inputs["checkpoint"], ctx.inputs["vae"], precision=precision, text_precision="fp32")
    prompts = _prompts(ctx)
    names, texts, latents, pixels = _generate(ctx, generator, prompts)
    _write(ctx.out, generator, names, texts, latents)
    _write_clips(ctx.out / "clips.tar", names, pixels, generator.file_fps)
    labels = _judge(prompts, names, texts, pixels)
    (ctx.out / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in labels))
    absolute = [x["pass"] for x in labels if x["kind"] == "absolute"]
    return {"candidates": len(names), "passed": float(sum(absolute)), "pairs": len(labels) - len(absolute)}


def _prompts(ctx: StageContext) -> list[str]:
    """Captions of training clips that name a combination kept for alignment; any training captions when none does."""
    from mugv.dataset.latentset import LatentSet
    from mugv.evaluation.prompts import alignment_combinations
    from mugv.media.shapes import parse_caption

    align = ctx.recipe.align
    assert align is not None
    captions = sorted({r.caption for r in LatentSet.open(ctx.inputs["latents"]).clips("train")})
    allowed = set(alignment_combinations())
    chosen = [c for c in captions if parse_caption(c) in allowed] or [c for c in captions if parse_caption(c) is None]
    return [chosen[i % len(chosen)] for i in range(min(align.prompts, len(chosen)))] if chosen else []


def _generate(ctx: StageContext, generator: Generator, prompts: list[str]) -> tuple[list[str], list[str], Any, Any]:
    import torch

    from mugv.draws import seed_of

    align = ctx.recipe.align
    assert align is not None
    names = [f"{i:04d}-{j}" for i in range(len(prompts)) for j in range(align.candidates)]
    texts = [p for p in prompts for _ in range(align.candidates)]
    latents: list[torch.Tensor] = []
    pixels: list[np.ndarray] = []
    batch = generator.batch_size()
    for start in range(0, len(names), batch):
        part = slice(start, start + batch)
        seeds = [seed_of(ctx.recipe.seed, "candidates", name) for name in names[part]]
        z = generator.sample(texts[part], seeds, sampler=align.sampler)
        latents.append(z)
        pixels.extend(generator.decode(z))
        ctx.progress(min(start + batch, len(names)), len(names), {})
    return names, texts, torch.cat(latents) if latents else torch.zeros(0), pixels


def _write(out: Path, generator: Generator, names: list[str], texts: list[str], latents: Any) -> None:
    import numpy as np
    import torch
    from safetensors.torch import save_file

    embeddings = generator.encoder.encode(texts)
    offsets = np.cumsum([0] + [len(e) for e in embeddings])
    width = generator.encoder.encode_null().shape[1]
    joined = np.concatenate(embeddings) if embeddings else np.zeros((0, width), np.float32)
    save_file(
        {"latents": latents.contiguous(), "embeddings": torch.from_numpy(joined), "offsets": torch.from_numpy(offsets)},
        out / "candidates.safetensors",
    )
    (out / "candidates.json").write_text(json.dumps({"clips": names, "prompts": texts}))


def _write_clips(path: Path, names: list[str], pixels: list[np.ndarray], fps: float) -> None:
    from mugv.media.encode import write_video

    with tarfile.open(path, "w") as tar, tempfile.TemporaryDirectory() as folder:
        for name, clip in zip(names, pixels, strict=True):
            file = Path(folder) / "clip.mp4"
            write_video(file, clip, fps)
            info = tarfile.TarInfo(f"{name}.mp4")
            info.size = file.stat().st_size
            tar.addfile(info, io.BytesIO(file.read_bytes()))


def _judge(prompts: list[str], names: list[str], texts: list[str], pixels: list[np.ndarray]) -> list[dict[str, Any]]:
    """Absolute labels (all attributes right, in every frame) and, for each prompt, its best clip against its worst where they differ."""
    from mugv.evaluation.judge import judge
    from mugv.media.shapes import parse_caption

    lines: list[dict[str, Any]] = []
    points: dict[str, list[tuple[float, str]]] = {p: [] for p in prompts}
    for name, text, clip in zip(names, texts, pixels, strict=True):
        wanted = parse_caption(text)
        if wanted is None:
            continue
        hits = judge(clip).matches(wanted).values()
        lines.append({"kind": "absolute", "clip": name, "prompt": text, "pass": all(hits), "labeller": "judge"})
        points[text].append((float(sum(hits)), name))
    for text, scored in points.items():
        if scored and max(scored)[0] > min(scored)[0]:
            lines.append({"kind": "pair", "winner": max(scored)[1], "loser": min(scored)[1], "prompt": text, "labeller": "judge"})
    return lines
