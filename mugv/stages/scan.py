"""Stage `scan`: lists the sources with digests, captions and shard numbers, and refuses a wrong captions file.

`data_digest` is the same reading without an output: it is the root of the cache keys, so a wrong folder or captions file
stops a run before anything starts.
"""

from __future__ import annotations

import json
from pathlib import Path

from mugv.curation.sources import SourceFile, assign_shards, digest_of, local_folder, read_sources
from mugv.recipe import Recipe
from mugv.stages.base import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Writes sources.json; returns the number of sources, of their bytes and of captions."""
    footage = ctx.inputs.get("footage")
    sources = read_sources(footage, None) if footage else _read(ctx.recipe)
    sources = assign_shards(sources, ctx.recipe.data.shards)
    tree = {"digest": digest_of(sources), "sources": [source.to_dict() for source in sources]}
    (ctx.out / "sources.json").write_text(json.dumps(tree, indent=1) + "\n")
    captions = sum(len(source.captions) for source in sources)
    return {"sources": len(sources), "bytes": sum(source.bytes for source in sources), "captions": captions}


def data_digest(recipe: Recipe, state: Path | None = None) -> str:
    """SHA-256 over names, contents and captions of data.videos; "" when the recipe makes its own footage. Raises UserError.

    `state`: a folder where file digests are remembered from call to call.
    """
    if recipe.data.videos is None:
        return ""
    return digest_of(_read(recipe, state / "digests.json" if state else None))


def _read(recipe: Recipe, cache: Path | None = None) -> list[SourceFile]:
    assert recipe.data.videos is not None
    captions = Path(recipe.data.captions) if recipe.data.captions else None
    return read_sources(local_folder(recipe.data.videos), captions, cache)
