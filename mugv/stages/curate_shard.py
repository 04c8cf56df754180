"""Stage `curate_shard-<i>`: the sources of one shard to rows and clips."""

from __future__ import annotations

import json

from mugv.stages.base import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Writes part.parquet and clips-<i>.tar; returns counts of sources, kept and rejected rows."""
    import cv2

    from mugv.curation.shard import curate_shard, write_part
    from mugv.curation.sources import SourceFile, local_folder

    # Shards run side by side, one core each.
    cv2.setNumThreads(1)
    tree = json.loads((ctx.inputs["scan"] / "sources.json").read_text())
    sources = [s for s in map(SourceFile.from_dict, tree["sources"]) if s.shard == ctx.index]
    folder = ctx.inputs.get("footage") or local_folder(str(ctx.recipe.data.videos))
    found = curate_shard(sources, folder, ctx.recipe.curation, ctx.work, lambda done, total: ctx.progress(done, total, {}))
    write_part(found, ctx.out, ctx.index)
    kept = sum(row.status == "kept" for row, _ in found)
    return {"sources": len(sources), "kept": kept, "rejected": len(found) - kept}
