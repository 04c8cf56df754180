"""Ranks that judged a checkpoint differently would go on from different steps, and wait for each other for ever."""

import hashlib
import json

from forked import launch


def test_all_ranks_see_the_damage_that_one_of_them_finds(tmp_path):
    launch("seal_worker", [(2, [tmp_path])])
    found = [json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2)]
    expected = {f"rank-{rank}": hashlib.sha256(bytes([rank]) * 1000).hexdigest() for rank in range(2)}
    assert [f["sealed"] for f in found] == [expected, expected]
    assert [f["whole"] for f in found] == ["", ""]
    assert [f["damaged"] for f in found] == ["rank-1 is not what was written"] * 2
