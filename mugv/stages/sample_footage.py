"""Stage `footage`: writes the sample footage, its captions.jsonl and truth.json, when the recipe names no videos."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from mugv.stages.base import StageContext

PROCESSES = 2


def run(ctx: StageContext) -> dict[str, float]:
    """Returns the number of files, clean shots and frames."""
    from mugv.media.footage import plan, truth, write_file

    sample = ctx.recipe.data.sample
    files = plan(sample)
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(write_file, file, ctx.out, sample) for file in files]
        for done, future in enumerate(as_completed(waiting), 1):
            future.result()
            ctx.progress(done, len(files), {})
    entries = {file.name: truth(file, sample.fps) for file in files}
    lines = [line for _, captions in entries.values() for line in captions]
    (ctx.out / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {name: fact for name, (fact, _) in entries.items()}
    (ctx.out / "truth.json").write_text(json.dumps({"fps": sample.fps, "files": facts}, indent=1) + "\n")
    frames = sum(fact["frames"] for fact in facts.values())
    return {"files": len(files), "shots": sample.shots, "frames": frames}
