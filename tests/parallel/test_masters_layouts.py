"""In bf16 the exact weights lie in the optimizer, under ZeRO a share on each rank: what is handed on must be all of them, to the bit."""

import json
from pathlib import Path

import pytest
import torch
from forked import launch

from mugv.training.convert import open_distributed

ZERO = {"distributed_optimizer": True}
CASES: dict[int, dict[str, dict]] = {
    2: {
        "zero overlap": {"layout": {**ZERO, "overlap": True}},
        "tensor": {"layout": {"tensor": 2, "sequence_parallel": True}},
        "interleaved": {"layout": {"pipeline": 2, "virtual_pipeline": 2}},
        "context zero": {"layout": {"context": 2, **ZERO}},
        "muon": {"layout": {}, "muon": True},
        "lora zero": {"layout": ZERO, "lora": True},
    },
    4: {"tensor zero": {"layout": {"tensor": 2, **ZERO}}},
}
NAMES = [name for cases in CASES.values() for name in cases]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("masters")
    rounds = []
    for world, cases in CASES.items():
        job = base / f"job-{world}.json"
        job.write_text(json.dumps([{"name": name, **case} for name, case in cases.items()]))
        rounds.append((world, [job, base]))
    launch("masters_worker", rounds)
    return base


def tensors(folder: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    state = open_distributed(folder)
    return {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}


def masters(folder: Path) -> dict[str, torch.Tensor]:
    """What megatron wrote of its own into the training checkpoint."""
    state = open_distributed(folder / "state")
    found = {}
    for name in state:
        _, mark, rest = name.partition("optimizer.state.fp32_param.")
        if not mark:
            _, mark, rest = name.partition("optimizer.state.param.")
        if mark:
            found[rest] = state[name]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_handed_on_is_what_the_optimizer_holds(folder, name):
    expected, found = masters(folder / name), tensors(folder / name / "handed" / "model")
    before = tensors(folder / name / "before" / "model")
    assert expected
    assert not (set(expected) - set(found))
    rounded = 0.0
    for parameter, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected.get(parameter, before[parameter])), parameter
        rounded += float((value.bfloat16().float() - value).square().sum())
    update = sum(float((found[parameter] - before[parameter]).square().sum()) for parameter in expected)
    assert (rounded / update) ** 0.5 > 0.2


@pytest.mark.parametrize("name", NAMES)
def test_every_rank_starts_from_it_and_keeps_its_share_of_the_average(folder, name):
    reports = [json.loads(path.read_text()) for path in folder.glob(f"{name}-?.json")]
    assert reports
    assert all(report == {"average_kept": True, "lossless": True} for report in reports)


@pytest.mark.parametrize("name", NAMES)
def test_the_average_of_all_shares_is_between_start_and_end(folder, name):
    before, after, found = (tensors(folder / name / part / "model") for part in ("before", "handed", "average"))
    for parameter in masters(folder / name):
        low, high = torch.minimum(before[parameter], after[parameter]), torch.maximum(before[parameter], after[parameter])
        assert bool(((found[parameter] >= low - 3e-6) & (found[parameter] <= high + 3e-6)).all()), parameter
