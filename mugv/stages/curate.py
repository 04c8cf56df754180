"""Stage `curate`: the parts of all shards to the published ClipSet."""

from __future__ import annotations

from mugv.stages.base import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Returns counts of clips by split and of rejected rows by reason. UserError when no clip is left."""
    from mugv.curation.publish import publish

    names = sorted((name for name in ctx.inputs if name.startswith("parts/")), key=lambda name: int(name.removeprefix("parts/")))
    card = publish([ctx.inputs[name] for name in names], ctx.out, ctx.recipe.curation, ctx.recipe.seed)
    clips = {f"clips_{split}": float(count) for split, count in card["clips"].items()}
    return {**clips, **{f"rejected_{reason}": float(count) for reason, count in card["rejected"].items()}, "seconds": card["seconds"]}
