"""Stage `curate_shard-<i>`: the sources of one shard to rows and clips."""

from __future__ import annotations

from mugv.stages.base import StageContext


def run(ctx: StageContext) -> dict[str, float]:
    """Writes part.parquet, clips-<i>.tar, strips-<i>.tar, embeddings.parquet; returns counts, speed and its share of decoding alone.

    Sources that an earlier run curated with the same recipe and code are taken over from its part.
    """
    from mugv.media.start import start_decoder

    # It loads while this process does.
    start_decoder()
    import cv2

    from mugv.curation.reuse import take_over
    from mugv.curation.shard import Access, curate_shard, held, write_part
    from mugv.curation.sources import TABLE, read_sources_table
    from mugv.curation.sources_read import base_folder, signed_sources

    # Shards run side by side, one core each.
    cv2.setNumThreads(1)
    sources = read_sources_table(ctx.inputs["scan"] / TABLE, ctx.index)
    videos = ctx.inputs.get("footage") or str(ctx.recipe.data.videos)
    access = Access(base_folder(videos), ctx.recipe.data.fetch, signed_sources(videos, sources))
    taken = take_over(sources, ctx.earlier.outputs(), ctx.work) if ctx.earlier else 0
    finished = curate_shard(sources, access, ctx.recipe.curation, ctx.work, ctx.progress)
    counts = write_part(finished, ctx.out, ctx.index)
    if ctx.earlier:
        ctx.earlier.write(ctx.out, held(finished))
    rates = finished.meter.rates()
    known = {"finished before": finished.before - taken, "taken over from earlier runs": taken}
    print(_said(ctx.node, len(sources), known, counts["kept"], counts.total(), rates), flush=True)
    metrics = {"sources": len(sources), "sources_before": finished.before - taken, "sources_taken_over": taken}
    metrics |= {"kept": counts["kept"], "rejected": counts["rejected"]}
    return {**metrics, "frames": finished.meter.frames, **rates}


def _said(node: str, sources: int, known: dict[str, int], kept: int, rows: int, rates: dict[str, float]) -> str:
    """One line: `curate_shard-0: 12 sources (3 finished before), 200 of 240 clips kept, 1,234 frames/s, 51 x real time, ...`."""
    without = ", ".join(f"{count} {how}" for how, count in known.items() if count)
    parts = [f"{sources} sources" + (f" ({without})" if without else ""), f"{kept} of {rows} clips kept"]
    if rates:
        parts += [f"{rates['frames_per_second']:,.0f} frames/s", f"{rates['video_seconds_per_second']:.1f} x real time"]
    if rates.get("decode_share"):
        parts.append(f"{100 * rates['decode_share']:.0f} % of decoding alone")
    return f"{node}: {', '.join(parts)}"
