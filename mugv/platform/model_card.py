"""The card of a registered version: what it is, how it was made, how good it is, what it must not be used for. Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mugv.platform.lineage import describe_data

FILE = "model_card.md"
FIRST = ("t2v_seen_all", "t2v_held_out_all", "i2v_all", "validation_flow_loss", "vae_psnr", "vae_ssim")
"""Metrics that tell most; the others follow by name."""


def card(name: str, version: str, lineage: Mapping[str, Any], metrics: Mapping[str, float], champion: bool, reasons: Sequence[str]) -> str:
    """`lineage`: what `register` writes beside the model."""
    git, recipe = lineage["git"], lineage["recipe"]
    order = sorted(metrics, key=lambda metric: (FIRST.index(metric) if metric in FIRST else len(FIRST), metric))
    standing = "champion" if champion else "held back by the gate"
    commit = f"`{git['commit'][:12]}`{' with uncommitted changes' if git['dirty'] else ''}" if git["commit"] else "unknown"
    lines = [
        f"# {name}, version {version}",
        "",
        f"A video generator (MUG-DiT with VideoVAE): text, or text and a first frame, to a clip. {standing.capitalize()}.",
        "",
        "## Gate",
        "",
        *[f"- {reason}" for reason in reasons],
        "",
        "## How good it is",
        "",
        "On held-out clips and on prompts of the evaluation; `report.html` of the run's stage `evaluate` shows the clips.",
        "",
        "| metric | value |",
        "| --- | ---: |",
        *[f"| {metric} | {metrics[metric]:.4g} |" for metric in order],
        "",
        "## How it was made",
        "",
        f"- recipe {recipe['name']} `{recipe['digest'][:12]}`, run `{lineage['run']}`, commit {commit}",
        *([f"- image `{lineage['image']}`"] if lineage.get("image") else []),
        f"- {_plain(describe_data(lineage['data']))}",
        f"- stages: {', '.join(lineage['nodes'])}" if len(lineage["nodes"]) < 40 else f"- {len(lineage['nodes'])} stages",
        "",
        "## How to use it",
        "",
        f'    mugv generate "a red circle moves left" -o out.mp4 --model models:/{name}/{version}',
        "",
        "## Limits",
        "",
        "It shows what its training footage shows, with that footage's biases; what it makes is no record of anything. The judge's metrics",
        "hold for footage of the kind that it knows; other footage has the flow loss and people's eyes alone.",
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Without rich's markup."""
    return text.replace("[dim]", "").replace("[/dim]", "")
