"""Stage `curate`: the parts of all shards, and a model's captions where there are any, to the published ClipSet."""

from __future__ import annotations

from mugv.stages.base import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Returns counts of clips by split and of rejected rows by reason. UserError when no clip is left."""
    from mugv.curation.publish import publish

    parts, captions = (
        [ctx.inputs[name] for name in sorted((n for n in ctx.inputs if n.startswith(prefix)), key=lambda n: int(n.removeprefix(prefix)))]
        for prefix in ("parts/", "captions/")
    )
    card = publish(parts, ctx.out, ctx.recipe.curation, ctx.recipe.seed, captions)
    clips = {f"clips_{split}": float(count) for split, count in card["clips"].items()}
    rejected = {f"rejected_{reason}": float(count) for reason, count in card["rejected"].items()}
    scored = {"scored": float(sum(card["scored"].values()))} if card["scored"] else {}
    return {**clips, **rejected, **scored, "seconds": card["seconds"]}
