"""Stage `caption-<i>`: captions of one shard's kept clips by a vision language model, and tags where a model gives them."""

from __future__ import annotations

from mugv.stages.base import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Input: part. Output: captions.jsonl. Returns counts, tokens, cost and rates. UserError when clips are still waiting.

    Finished clips survive in the work folder, so that the next run asks for the waiting ones alone.
    """
    from mugv.curation.captions.part import caption_part

    return caption_part(ctx.inputs["part"], ctx.out, ctx.work, ctx.recipe.curation, ctx.progress)
