"""Stage `scan`: lists the sources with digests, captions and shard numbers, and refuses a wrong list or captions file.

`data_digest` is the same reading without an output: it is the root of the cache keys, so a wrong folder, list or captions file
stops a run before anything starts.
"""

from __future__ import annotations

from pathlib import Path

from mugv.curation.sources import TABLE, SourceFile, assign_shards, digest_of, write_sources
from mugv.curation.sources_read import read_sources
from mugv.curation.sources_s3 import check_buckets
from mugv.errors import UserError
from mugv.recipe import Recipe
from mugv.stages.base import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Writes sources.parquet; returns the number of sources, of their known bytes and of captions."""
    footage = ctx.inputs.get("footage")
    sources = read_sources(footage) if footage else sources_now(ctx.recipe)
    check_buckets(source.uri for source in sources)
    sources = assign_shards(sources, ctx.recipe.data.shards)
    write_sources(ctx.out / TABLE, sources)
    captions = sum(len(source.captions) for source in sources)
    return {"sources": len(sources), "bytes": sum(source.bytes for source in sources), "captions": captions}


def data_digest(recipe: Recipe, state: Path | None = None) -> str:
    """SHA-256 over names, contents (or what identifies them), captions and licences of data.videos.

    "" when the recipe makes its own footage. `state`: a folder where file digests are remembered from call to call. Raises UserError.
    """
    if recipe.data.videos is None:
        return ""
    return digest_of(sources_now(recipe, state / "digests.json" if state else None))


def sources_now(recipe: Recipe, cache: Path | None = None) -> list[SourceFile]:
    """What data.videos holds, which must be set. `cache`: file that remembers digests. Raises UserError."""
    assert recipe.data.videos is not None
    sources = read_sources(recipe.data.videos, recipe.data.captions, cache)
    _check_captions(sources, recipe)
    return sources


def _check_captions(sources: list[SourceFile], recipe: Recipe) -> None:
    """Said before hours of decoding: every clip would be rejected."""
    wanted = recipe.curation.require_caption and recipe.curation.caption.kind == "sidecar" and not recipe.curation.score_only
    if wanted and not any(source.captions for source in sources):
        raise UserError(
            f"data.videos {recipe.data.videos}: nothing says what the videos show, and no caption model is set, so every clip would be"
            " rejected; give --captions FILE, or a model with curation.caption.kind, or --set curation.require_caption=false"
        )
