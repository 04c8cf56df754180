"""A curation that is killed anywhere goes on: real processes, SIGKILL, and the same bytes at the end."""

import json

import numpy as np
from footage_tools import recipe_for, shot

from benchmarks.curation_kill import kill_anywhere
from mugv.media.encode import write_video


def test_killed_runs_repeat_only_the_source_in_flight_and_end_in_the_same_bytes(tmp_path):
    (tmp_path / "videos").mkdir()
    for k in range(8):
        write_video(tmp_path / f"videos/{k}.mp4", np.concatenate([shot(3 * k + j, 40) for j in range(3)]), 12)
    (tmp_path / "videos/captions.jsonl").write_text(
        "".join(json.dumps({"source": f"{k}.mp4", "caption": f"c{k}"}) + "\n" for k in range(8))
    )
    recipe = recipe_for(tmp_path, f"data.videos={tmp_path / 'videos'}", "data.shards=2")
    found = kill_anywhere(recipe, tmp_path / "runs", kills=6)
    assert found.kills >= 2
    assert len(found.begun) == 8
    assert found.repeated <= found.kills
    assert "manifest.parquet" in found.files
    assert found.identical, set(found.files.items()) ^ set(found.reference.items())
