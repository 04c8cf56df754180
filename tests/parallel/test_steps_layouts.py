"""KTO's reference point over ranks, and one rank's spoilt clip: every rank must see the same and decide alike."""

import json
import sys
from pathlib import Path

import pytest
from forked import launch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from training_tools import write_candidates

KTO = {
    1: {"one": {}},
    2: {"data micro": {"micro_batch": 2}, "pipeline": {"pipeline": 2, "micro_batch": 2}},
    4: {"zero": {"distributed_optimizer": True, "overlap": True}},
}
REFUSED = {2: {"data zero": {"distributed_optimizer": True, "overlap": True}, "pipeline": {"pipeline": 2}}}


def jobs(world: int) -> list[dict]:
    out = [{"kind": "kto", "name": f"kto {name}", "layout": layout} for name, layout in KTO[world].items()]
    for skips in (0, 9):
        for name, layout in REFUSED.get(world, {}).items():
            out.append({"kind": "refused", "name": f"refused {name} {skips}", "layout": layout, "skips": skips})
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = write_candidates(tmp_path_factory.mktemp("steps"))
    rounds = []
    for world in KTO:
        job = base / f"job-{world}.json"
        job.write_text(json.dumps(jobs(world)))
        rounds.append((world, [job, base]))
    launch("steps_worker", rounds)
    return base


def reports(folder: Path, name: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-?.json"))]


@pytest.mark.parametrize("name", [name for world in (2, 4) for name in KTO[world]])
def test_kto_learns_the_same_however_many_ranks_share_its_clips(folder, name):
    (one,) = reports(folder, "kto one")
    found = reports(folder, f"kto {name}")
    assert len({tuple(report["kto_loss"]) for report in found}) == 1
    assert found[0]["kto_loss"] == pytest.approx(one["kto_loss"], rel=2e-4)


@pytest.mark.parametrize("name", REFUSED[2])
def test_all_ranks_stop_at_one_ranks_spoilt_clip_and_name_it(folder, name):
    first, second = reports(folder, f"refused {name} 0")
    assert first == second
    assert first["message"].startswith("step 3 would destroy the weights: the loss is nan; clips c3;")
    assert first["finite"]


@pytest.mark.parametrize("name", REFUSED[2])
def test_all_ranks_skip_alike(folder, name):
    first, second = reports(folder, f"refused {name} 9")
    assert first == second == {"message": "", "skipped": 2, "finite": True}
