"""The graph of a run: which stages a recipe asks for, what feeds what, and the cache key of each.

This is the single table. KFP pipelines, `dvc.yaml`, `mugv plan` and the lineage read it. Standard library and recipe only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mugv.errors import UserError
from mugv.recipe import Recipe
from mugv.recipe.curation import SERVICE, Captioning, Curation
from mugv.stages.code_digest import code_digest
from mugv.store.carried import carried_digest

Pool = Literal["data", "vae", "train"]
REGISTRY_CODE = ("mugv.platform.registry", "mugv.platform.video_model")
AFTER_SHARDS = ("caption", "tags", "duplicates", "balance", "validation_fraction")
"""Parts of `curation` that are read only once the shards are there."""
SHARD_FILES = ("curation.aesthetic.clip", "curation.aesthetic.head", "curation.motion.weights")
CAPTION_PARTS = (
    *(f"curation.caption.{name}" for name in Captioning.model_fields if name not in (*SERVICE, "model", "score_suffix")),
    "curation.tags",
)
"""What decides a caption, beside the model."""
MERGE_PARTS = (
    *(f"curation.{name}" for name in ("tags", "duplicates", "balance", "validation_fraction")),
    *(f"curation.caption.{name}" for name in ("kind", "score_suffix")),
)
DOWNLOAD_PARTS = ("data.fetch.maximum_gigabytes", "data.fetch.maximum_seconds")
"""Limits that reject a source; who stalls is asked again by any later run."""
SHARD_INPUTS = {"curate_shard": "parts", "caption": "captions"}
"""Stage of a shard -> name under which the merge reads its outputs."""


@dataclass(frozen=True)
class Node:
    """One task of a run: the stage function that it calls, what it reads, and what its cache key is made of."""

    name: str
    stage: str
    index: int
    inputs: dict[str, str]
    """Input name -> name of the node whose output it is."""
    parts: tuple[str, ...]
    """Dotted paths of the recipe that decide the output."""
    code: tuple[str, ...]
    """Modules whose source, with all that they import, decides the output."""
    pool: Pool
    placement: tuple[str, ...] = ()
    """Dotted paths that decide only how the work is divided: they enter this node's key, never that of a merged output."""
    files: tuple[str, ...] = ()
    """Dotted paths of the recipe that name a local file whose content decides the output."""


def build_graph(recipe: Recipe) -> list[Node]:
    """Every node of the run that `recipe` asks for, in topological order."""
    nodes = _data_nodes(recipe)
    nodes.append(_node("train_vae", {"clips": "curate"}, ("vae", "seed", "parallel"), "vae", files=("weights.vae",)))
    nodes.append(_node("encode", {"clips": "curate", "vae": "train_vae"}, ("encode", "text", "seed"), "vae", files=("weights.dit",)))
    nodes += _training_nodes(recipe)
    checkpoint = nodes[-1].name
    latest = {"clips": "curate", "vae": "train_vae", "latents": "encode", "checkpoint": checkpoint}
    nodes.append(_node("evaluate", latest, ("evaluate", "seed"), "train"))
    registered = _node("register", {"evaluate": "evaluate", **latest}, ("register",), "data", code=REGISTRY_CODE)
    return [*nodes, registered]


def _node(
    stage: str,
    inputs: dict[str, str],
    parts: tuple[str, ...],
    pool: Pool,
    *,
    name: str = "",
    index: int = 0,
    code: tuple[str, ...] = (),
    placement: tuple[str, ...] = (),
    files: tuple[str, ...] = (),
) -> Node:
    return Node(name or stage, stage, index, inputs, parts, (f"mugv.stages.{stage}", *code), pool, placement, files)


def _data_nodes(recipe: Recipe) -> list[Node]:
    footage: dict[str, str] = {}
    nodes = []
    if recipe.data.videos is None:
        nodes.append(_node("sample_footage", {}, ("data.sample",), "data", name="footage"))
        footage = {"footage": "footage"}
    nodes.append(_node("scan", footage, (), "data", placement=("data.shards",)))
    shards = range(recipe.data.shards)
    nodes += [_shard_node(recipe, i, {"scan": "scan", **footage}) for i in shards]
    if recipe.curation.caption.kind != "sidecar" or recipe.curation.tags.kind == "endpoint":
        nodes += [_caption_node(recipe, i) for i in shards]
    merged = {f"{SHARD_INPUTS[n.stage]}/{n.index}": n.name for n in nodes if n.stage in SHARD_INPUTS}
    nodes.append(_node("curate", merged, (*MERGE_PARTS, "seed"), "data", files=("curation.duplicates.earlier",)))
    return nodes


def _shard_node(recipe: Recipe, i: int, inputs: dict[str, str]) -> Node:
    """All of the recipe's curation that decides what is decoded, measured and cut. Which model captions later decides nothing here."""
    own = (*(f"curation.{name}" for name in Curation.model_fields if name not in AFTER_SHARDS), *DOWNLOAD_PARTS)
    parts = (*own, "curation.caption.kind") if recipe.curation.caption.kind == "sidecar" else own
    name, placement = f"curate_shard-{i}", ("data.shards",)
    return _node("curate_shard", inputs, parts, "data", name=name, index=i, placement=placement, files=SHARD_FILES)


def _caption_node(recipe: Recipe, i: int) -> Node:
    """Apart from decoding, so that another model decodes nothing again. A folder of weights counts by its content, a name by itself."""
    caption, model = recipe.curation.caption, "curation.caption.model"
    files, named = ((model,), ()) if caption.model and (carried_digest(caption.model) or Path(caption.model).is_dir()) else ((), (model,))
    pool: Pool = "train" if caption.kind == "transformers" else "data"
    name, placement, inputs = f"caption-{i}", ("data.shards",), {"part": f"curate_shard-{i}"}
    return _node("caption", inputs, (*CAPTION_PARTS, *named), pool, name=name, index=i, placement=placement, files=files)


def _training_nodes(recipe: Recipe) -> list[Node]:
    common = ("dit", "seed", "training_seed", "parallel")
    nodes: list[Node] = []
    for k in range(len(recipe.pretrain)):
        previous = {"previous": f"pretrain-{k - 1}"} if k else {}
        # A stage's width is the final one divided by the expansions that come after it.
        later = tuple(f"pretrain.{j}.expand.factor" for j in range(k + 1, len(recipe.pretrain)))
        parts = (f"pretrain.{k}", *later, *common)
        files = () if k else ("weights.dit",)
        nodes.append(_node("pretrain", {"latents": "encode", **previous}, parts, "train", name=f"pretrain-{k}", index=k, files=files))
    if recipe.sft:
        inputs = {"latents": "encode", "clips": "curate", "previous": nodes[-1].name}
        nodes.append(_node("sft", inputs, ("sft", *common), "train"))
    return nodes + _align_nodes(recipe, nodes[-1].name, common)


def _align_nodes(recipe: Recipe, checkpoint: str, common: tuple[str, ...]) -> list[Node]:
    if recipe.align is None:
        return []
    drawn = ("align.prompts", "align.candidates", "align.sampler", "seed")
    labels = ("align.labels",)
    inputs = {"checkpoint": checkpoint, "vae": "train_vae", "latents": "encode"}
    nodes = [_node("candidates", inputs, drawn, "train")]
    for j in range(len(recipe.align.rounds)):
        inputs = {"latents": "encode", "candidates": "candidates", "previous": checkpoint}
        parts = (f"align.rounds.{j}", *common)
        nodes.append(_node("align", inputs, parts, "train", name=f"align-{j}", index=j, files=labels))
        checkpoint = nodes[-1].name
    return nodes


def node_keys(recipe: Recipe, data_digest: str) -> dict[str, str]:
    """Cache key (sha256 hex) of every node. `data_digest`: "" for sample footage, else the digest of the user's videos.

    A node's key is made of its stage, index, recipe parts, code and the *identities* of its inputs; an identity is a key
    without index and placement, so that cutting the same footage into more shards reruns the shards and nothing after them.
    """
    tree = recipe.model_dump(mode="json", by_alias=True)
    keys: dict[str, str] = {}
    identities: dict[str, str] = {}
    for node in build_graph(recipe):
        sharded = bool(node.placement)
        content = {**_content(node, tree), "data": data_digest if not node.inputs and node.stage == "scan" else ""}
        identities[node.name] = _sha({**content, "index": 0 if sharded else node.index, "inputs": _inputs(node, identities)})
        placed = {path: _value(tree, path) for path in node.placement}
        keys[node.name] = identities[node.name]
        if sharded:
            keys[node.name] = _sha({**content, "index": node.index, "placement": placed, "inputs": _inputs(node, keys)})
    return keys


def made_with(node: Node, recipe: Recipe) -> str:
    """SHA-256 (hex) of what decides a node's output beside its inputs."""
    return _sha(made_of(node, recipe))


def made_of(node: Node, recipe: Recipe) -> dict[str, Any]:
    """What decides a node's output beside its inputs: parts of the recipe, digests of the files that it names, digest of the code."""
    return _content(node, recipe.model_dump(mode="json", by_alias=True))


def _content(node: Node, tree: Any) -> dict[str, Any]:
    return {
        "stage": node.stage,
        "parts": {path: _deciding(_value(tree, path)) for path in node.parts},
        "files": {path: _file_digest(path, _value(tree, path)) for path in node.files},
        "code": code_digest(node.code),
    }


def _deciding(part: Any) -> Any:
    """Without `guard`: what a stage may skip changes no step that was taken, and a stage that ended goes on where it was allowed more."""
    if isinstance(part, dict):
        return {key: _deciding(value) for key, value in part.items() if key != "guard"}
    return [_deciding(value) for value in part] if isinstance(part, list) else part


def _inputs(node: Node, of: dict[str, str]) -> dict[str, str]:
    """Input name -> key; `parts/0`, `parts/1`, ... count as one input `parts`, since their identities are equal."""
    return {name.partition("/")[0]: of[source] for name, source in node.inputs.items()}


def needed_nodes(nodes: list[Node], hits: set[str], goal: str = "") -> set[str]:
    """Names of the nodes whose output is wanted: `goal` ("": the last node), and what a wanted node that is not a hit reads."""
    wanted = {goal or nodes[-1].name}
    for node in reversed(nodes):
        if node.name in wanted and node.name not in hits:
            wanted |= set(node.inputs.values())
    return wanted


def _value(tree: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        if tree is None:
            return None
        tree = tree[int(name)] if isinstance(tree, list) else tree[name]
    return tree


def _file_digest(path: str, name: str | list[str] | None) -> str:
    if not name:
        return ""
    if isinstance(name, list):
        return _sha({str(i): _file_digest(path, item) for i, item in enumerate(name)})
    if known := carried_digest(name):
        return known
    try:
        if Path(name).is_dir():
            return _sha({str(p.relative_to(name)): _folder_entry(p) for p in sorted(Path(name).rglob("*")) if p.is_file()})
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {name} cannot be read ({error.strerror}); give an existing file or leave the key out") from None


def _folder_entry(path: Path) -> list[Any]:
    """Weights are too large to read for every plan: size and time stand for large files, the content for small ones."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns if facts.st_size > 1 << 20 else hashlib.sha256(path.read_bytes()).hexdigest()]


def _sha(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
