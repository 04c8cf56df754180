"""Where a model came from: model -> run -> stages -> checkpoints -> latent set -> clip set -> data -> git commit and recipe."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.tree import Tree

    from mugv.platform.registry import Version

ROOT = Path(__file__).resolve().parents[2]
DIRTY = "-dirty"
"""Ends the commit of an image whose source differed from it."""


def git_state(root: Path = ROOT) -> dict[str, Any]:
    """{"commit": id or "", "dirty": tracked files differ}. In an image its revision counts (MUGV_GIT_COMMIT, set when it is built)."""
    if commit := os.environ.get("MUGV_GIT_COMMIT"):
        return {"commit": commit, "dirty": False}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "", "dirty": False}


def image_digest() -> str:
    """Digest of the image that this process runs in, where a deployment says it (MUGV_IMAGE_DIGEST); "" elsewhere."""
    return os.environ.get("MUGV_IMAGE_DIGEST", "")


def in_image() -> dict[str, Any]:
    """Commit and image of this process for a stage's record; {} outside of an image: the run's record has the commit."""
    image, commit = image_digest(), os.environ.get("MUGV_GIT_COMMIT")
    return ({"git": git_state()} if commit else {}) | ({"image": image} if image else {})


def code_tags(record: dict[str, Any]) -> dict[str, str]:
    """Commit and image of a run's or a stage's record; the commit under the name by which MLflow's pages show it."""
    git, image = record.get("git", {}), {"mugv.image": record["image"]} if record.get("image") else {}
    return image | ({"mlflow.source.git.commit": git["commit"], "mugv.git.dirty": str(git["dirty"]).lower()} if git.get("commit") else {})


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def lineage_tree(version: Version, lineage: dict[str, Any], aliases: list[str]) -> Tree:
    """A rich tree of what `register` wrote, from the model down to the data."""
    from rich.markup import escape
    from rich.tree import Tree

    named = f"[bold]{escape(version.name)}[/bold] version {version.version}"
    top = Tree(named + (f" [green]({', '.join(aliases)})[/green]" if aliases else ""))
    run = top.add(f"run {lineage['run']}  [dim]MLflow {lineage['mlflow_run'] or '(none)'}[/dim]")
    git = lineage["git"]
    run.add(f"git commit {git['commit'] or 'unknown'}{' + uncommitted changes' if git['dirty'] else ''}")
    if lineage.get("image"):
        run.add(f"image {escape(lineage['image'])}")
    run.add(f"recipe {escape(lineage['recipe']['name'])}  [dim]sha256 {lineage['recipe']['digest']}[/dim]")
    nodes: dict[str, Any] = lineage["nodes"]
    _add(run, "register", nodes, lineage["data"], set())
    return top


def _add(tree: Tree, name: str, nodes: dict[str, Any], data: dict[str, Any], seen: set[str]) -> None:
    from rich.markup import escape

    node = nodes[name]
    line = f"{name}  [dim]key {node['key'][:12]}[/dim]"
    if node.get("digest"):
        line += f"  [dim]digest {node['digest'][:12]}[/dim]  {escape(node['uri'])}"
    if name in seen:
        tree.add(f"{name}  [dim](above)[/dim]")
        return
    seen.add(name)
    branch = tree.add(line)
    for source in _in_story_order(node["inputs"].values()):
        _add(branch, source, nodes, data, seen)
    if name in ("footage", "scan") and not node["inputs"]:
        branch.add(describe_data(data))


def _in_story_order(sources: Any) -> list[str]:
    """Checkpoints first, then latents, VAE and clips: each output is shown under the first that used it."""
    order = ["align", "candidates", "sft", "pretrain", "evaluate", "encode", "train_vae", "curate"]
    names = sorted(set(sources))
    return sorted(names, key=lambda n: next((i for i, stage in enumerate(order) if n.startswith(stage)), len(order)))


def describe_data(data: dict[str, Any]) -> str:
    """One line: sample footage, or the videos with their digest and DVC revision."""
    from rich.markup import escape

    if data["videos"] is None:
        return "data: sample footage (made from the recipe)"
    revision = f", DVC revision {data['dvc_revision']}" if data["dvc_revision"] else ""
    if dvc := data.get("dvc"):
        revision += f", DVC {escape(dvc.get('path', ''))} md5 {dvc.get('md5', '')}"
    return f"data: {escape(data['videos'])}  [dim]sha256 {data['digest']}[/dim]{revision}"
