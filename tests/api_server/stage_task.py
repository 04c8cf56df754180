"""A task's process: the stage train_vae on plain folders. Arguments: recipe, clips, state folder, run id."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

from mugv.errors import EXIT_USER, UserError
from mugv.platform.records import RunRecord
from mugv.recipe import load_recipe
from mugv.stages import train_vae
from mugv.stages.base import StageContext
from mugv.stages.progress import ProgressWriter


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main(recipe: str, clips: str, state: str, run: str) -> int:
    signal.signal(signal.SIGTERM, _stop)
    record = RunRecord.of(Path(state), run)
    record.update_stage("train_vae", key="0" * 64)
    place = Path(state) / "work" / "key"
    out, work = place / "token.out", place / "token"
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    footage = Path(state) / "cache" / "clips"
    if not footage.exists():
        shutil.copytree(clips, footage)
    progress = ProgressWriter(record, "train_vae")
    ctx = StageContext(load_recipe(Path(recipe)), "train_vae", 0, {"clips": footage}, {}, out, work, progress)
    try:
        print(json.dumps(train_vae.run(ctx)), flush=True)
    except UserError as error:
        print(f"mugv-error: {error}", flush=True)
        return EXIT_USER
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
