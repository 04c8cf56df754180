"""Stage `caption-<i>`: captions of one shard's kept clips by a vision language model, and tags where a model gives them."""

from __future__ import annotations

from mugv.stages.base import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Input: part. Output: captions.jsonl. Returns counts, tokens, cost and rates. UserError when clips are still waiting.

    Finished clips survive in the work folder, so that the next run asks for the waiting ones alone.
    """
    from mugv.curation.captions.part import caption_part

    found = caption_part(ctx.inputs["part"], ctx.out, ctx.work, ctx.recipe.curation, ctx.progress)
    counts = "{captioned:.0f} captions, {refused:.0f} refused, {tokens_input:.0f} + {tokens_output:.0f} tokens, cost {cost:.4g}"
    print(
        f"{ctx.node}: {(counts + ', {captions_a_second:.3g} captions/s, {tokens_a_second:.4g} output tokens/s').format(**found)}",
        flush=True,
    )
    return found
