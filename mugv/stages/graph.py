"""The graph of a run: which stages a recipe asks for, what feeds what, and the cache key of each.

This is the single table. KFP pipelines, `dvc.yaml`, `mugv plan` and the lineage read it. Standard library and recipe only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from mugv.errors import UserError
from mugv.recipe import Recipe
from mugv.recipe.curation import SERVICE, Captioning, Curation

if TYPE_CHECKING:
    from mugv.stages.roots import Roots

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
SHARD_PARTS = (*(f"curation.{name}" for name in Curation.model_fields if name not in AFTER_SHARDS), *DOWNLOAD_PARTS)
"""All of the curation that decides what is decoded, measured and cut. Which model captions later decides nothing here."""
TEXT_PARTS = ("encode", "text", "text.path", "seed")
"""What is made says where its text encoder lies: the place counts too, beside the content."""
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
    """Dotted paths of the recipe that name a file whose content, and not its place, decides the output."""


def build_graph(recipe: Recipe) -> list[Node]:
    """Every node of the run that `recipe` asks for, in topological order."""
    nodes = _data_nodes(recipe)
    nodes.append(_node("train_vae", {"clips": "curate"}, ("vae", "seed", "parallel"), "vae", files=("weights.vae",)))
    nodes.append(_node("encode", {"clips": "curate", "vae": "train_vae"}, TEXT_PARTS, "vae", files=("weights.dit", "text.path")))
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
    parts = (*SHARD_PARTS, "curation.caption.kind") if recipe.curation.caption.kind == "sidecar" else SHARD_PARTS
    # Scores that a network gives need torch, which the data image does not have.
    pool: Pool = "train" if recipe.curation.aesthetic.clip or recipe.curation.motion.method == "raft" else "data"
    name, placement = f"curate_shard-{i}", ("data.shards",)
    return _node("curate_shard", inputs, parts, pool, name=name, index=i, placement=placement, files=SHARD_FILES)


def _caption_node(recipe: Recipe, i: int) -> Node:
    """Apart from decoding, so that another model decodes nothing again."""
    model, loaded = ("curation.caption.model",), recipe.curation.caption.kind == "transformers"
    pool: Pool = "train" if loaded else "data"
    parts, files = (CAPTION_PARTS, model) if loaded else ((*CAPTION_PARTS, *model), ())
    name, placement, inputs = f"caption-{i}", ("data.shards",), {"part": f"curate_shard-{i}"}
    return _node("caption", inputs, parts, pool, name=name, index=i, placement=placement, files=files)


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


class Keys:
    """Cache keys (sha256 hex) of a recipe's nodes, each computed when it is asked for: a shard of 10,000 needs few of them.

    A node's key is made of its stage, index, recipe parts, files, code and the *identities* of its inputs; an identity is a key
    without index and placement, so that cutting the same footage into more shards reruns the shards and nothing after them.
    Pure: nothing is opened and no time enters. `keys[name]` raises KeyError for a name that the graph does not have, and UserError
    when the roots are those of another recipe.
    """

    def __init__(self, recipe: Recipe, roots: Roots) -> None:
        self.nodes = {node.name: node for node in build_graph(recipe)}
        self._tree = recipe.model_dump(mode="json", by_alias=True)
        self._roots = roots
        self._keys: dict[str, str] = {}
        self._identities: dict[tuple[str, int], str] = {}
        self._contents: dict[tuple[str, int], str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._keys:
            self._keys[name] = self._key(self.nodes[name])
        return self._keys[name]

    def _key(self, node: Node) -> str:
        if not node.placement:
            return self._identity(node)
        placed = {path: value_at(self._tree, path) for path in node.placement}
        inputs = _inputs(node, lambda name: self[name])
        return _sha({"content": self._content(node), "index": node.index, "placement": placed, "inputs": inputs})

    def _identity(self, node: Node) -> str:
        """Equal for all shards of a stage, since the identities of their inputs are."""
        place = _place(node)
        if place not in self._identities:
            inputs = _inputs(node, lambda name: self._identity(self.nodes[name]))
            self._identities[place] = _sha({"content": self._content(node), "index": place[1], "inputs": inputs})
        return self._identities[place]

    def _content(self, node: Node) -> str:
        if (place := _place(node)) not in self._contents:
            data = {"data": self._roots.data} if node.stage == "scan" and not node.inputs else {}
            self._contents[place] = _sha({**_content(node, self._tree, self._roots), **data})
        return self._contents[place]


def node_keys(recipe: Recipe, roots: Roots) -> dict[str, str]:
    """The key of every node, in the order of the graph. See `Keys`."""
    keys = Keys(recipe, roots)
    return {name: keys[name] for name in keys.nodes}


def made_with(node: Node, recipe: Recipe, roots: Roots) -> str:
    """SHA-256 (hex) of what decides a node's output beside its inputs."""
    return _sha(made_of(node, recipe, roots))


def made_of(node: Node, recipe: Recipe, roots: Roots) -> dict[str, Any]:
    """What decides a node's output beside its inputs: parts of the recipe, digests of the files that it names, digest of the code."""
    return _content(node, recipe.model_dump(mode="json", by_alias=True), roots)


def _content(node: Node, tree: Any, roots: Roots) -> dict[str, Any]:
    absent = [path for path in node.files if path not in roots.files] + [node.stage for _ in range(node.stage not in roots.code)]
    if absent:
        raise UserError(f"roots: they say nothing of {', '.join(absent)}; they are those of another recipe or release: compile again")
    return {
        "stage": node.stage,
        "parts": {path: _deciding(value_at(tree, path), path, node.files) for path in node.parts},
        "files": {path: roots.files[path] for path in node.files},
        "code": roots.code[node.stage],
    }


def _deciding(part: Any, path: str, files: tuple[str, ...]) -> Any:
    """Without where a file lies, and without `guard`: what a stage may skip changes no step that was taken, and a stage that ended
    goes on where it was allowed more."""
    if isinstance(part, dict):
        inner = {key: (value, f"{path}.{key}") for key, value in part.items() if key != "guard"}
        return {key: _deciding(value, where, files) for key, (value, where) in inner.items() if where not in files}
    return [_deciding(value, f"{path}.{i}", files) for i, value in enumerate(part)] if isinstance(part, list) else part


def _place(node: Node) -> tuple[str, int]:
    """A node without its placement."""
    return node.stage, 0 if node.placement else node.index


def _inputs(node: Node, of: Callable[[str], str]) -> dict[str, str]:
    """Input name -> key; `parts/0`, `parts/1`, ... count as one input `parts`, since their identities are equal."""
    first = {name.partition("/")[0]: source for name, source in reversed(node.inputs.items())}
    return {name: of(source) for name, source in first.items()}


def of_shards(name: str) -> bool:
    """Whether an input is one of many that a merge reads: `parts/0`, `captions/7`."""
    return "/" in name


def needed_nodes(nodes: list[Node], hits: set[str], goal: str = "") -> set[str]:
    """Names of the nodes whose output is wanted: `goal` ("": the last node), and what a wanted node that is not a hit reads."""
    wanted = {goal or nodes[-1].name}
    for node in reversed(nodes):
        if node.name in wanted and node.name not in hits:
            wanted |= set(node.inputs.values())
    return wanted


def is_needed(nodes: Mapping[str, Node], name: str, absent: Callable[[str], bool], goal: str = "") -> bool:
    """Whether somebody will read what a node makes: it is the `goal` ("": the last node), or a needed node without an output reads it.

    Asks only of nodes between this one and the goal whether their output is `absent`, from the goal on: of few in a graph of 10,000 shards.
    """
    readers: dict[str, list[str]] = {}
    for node in nodes.values():
        for source in node.inputs.values():
            readers.setdefault(source, []).append(node.name)
    last, missing, known = goal or next(reversed(list(nodes))), cache(absent), dict[str, bool]()

    def needed(name: str) -> bool:
        if name not in known:
            known[name] = name == last or any(needed(reader) and missing(reader) for reader in readers.get(name, ()))
        return known[name]

    return needed(name)


def value_at(tree: Any, dotted: str) -> Any:
    """The value at a dotted path of a recipe's JSON tree; None where a section on the way is unset."""
    for name in dotted.split("."):
        if tree is None:
            return None
        tree = tree[int(name)] if isinstance(tree, list) else tree[name]
    return tree


def _sha(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
