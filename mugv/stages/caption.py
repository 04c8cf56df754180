"""Stage `caption-<i>`: captions of one shard's kept clips by a vision language model, and tags where a model gives them."""

from __future__ import annotations

from mugv.stages.base import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Input: part. Output: captions.jsonl. Returns counts, tokens, cost and rates. UserError when clips are still waiting.

    Finished clips survive in the work folder, so that the next run asks for the waiting ones alone. Clips that an earlier run
    captioned with the same model and recipe are not asked for.
    """
    from mugv.curation.captions.part import caption_part, held

    part, earlier = ctx.inputs["part"], ctx.earlier
    found = caption_part(part, ctx.out, ctx.work, ctx.recipe.curation, ctx.progress, earlier.outputs() if earlier else ())
    if earlier:
        earlier.write(ctx.out, held(part, ctx.out))
    print(f"{ctx.node}: {_said(found)}", flush=True)
    return found


def _said(found: dict[str, float]) -> str:
    taken = " ({taken_over:.0f} taken over from earlier runs)" if found["taken_over"] else ""
    counts = (
        "{captioned:.0f} captions" + taken + ", {refused:.0f} refused, {tokens_input:.0f} + {tokens_output:.0f} tokens, cost {cost:.4g}"
    )
    return (counts + ", {captions_a_second:.3g} captions/s, {tokens_a_second:.4g} output tokens/s").format(**found)
