"""Adapters under every layout against one process: gradients, drift of replicas, the frozen base, and the file that is saved."""

import json
from pathlib import Path

import pytest
import torch
from forked import launch
from safetensors.torch import load_file

LAYOUTS = {
    1: {"one": {}, "adam-one": {}},
    2: {
        "tensor": {"tensor": 2},
        "sequence": {"tensor": 2, "sequence_parallel": True},
        "sequence-recompute": {"tensor": 2, "sequence_parallel": True, "recompute": "full"},
        "pipeline": {"pipeline": 2, "recompute": "selective"},
        "context": {"context": 2},
        "data": {},
        "adam-sharded": {"distributed_optimizer": True, "overlap": True},
        "adam-tensor": {"tensor": 2, "sequence_parallel": True, "distributed_optimizer": True},
    },
    4: {"tensor-pipeline": {"tensor": 2, "pipeline": 2, "sequence_parallel": True}},
}
MANY = [name for world in (2, 4) for name in LAYOUTS[world] if not name.startswith("adam")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("lora")
    rounds = []
    for world, layouts in LAYOUTS.items():
        cases = base / f"cases-{world}.json"
        cases.write_text(json.dumps([{"name": name, "layout": layout} for name, layout in layouts.items()]))
        rounds.append((world, [cases, base]))
    launch("lora_worker", rounds)
    return base


def reports(folder: Path, name: str) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(folder.glob(f"{name}-[0-9].json"))]


@pytest.mark.parametrize("name", MANY)
def test_gradients_of_adapters_are_those_of_one_process(folder, name):
    expected = torch.load(folder / "one-0.pt")
    found = [torch.load(path) for path in sorted(folder.glob(f"{name}-[0-9].pt"))]
    assert set().union(*found) == set(expected)
    for rank in found:
        for parameter, value in rank.items():
            scale = float(expected[parameter].abs().max())
            assert scale > 0, parameter
            assert float((value - expected[parameter]).abs().max()) <= 2e-6 * scale, parameter


@pytest.mark.parametrize("name", MANY)
def test_losses_and_norms_are_those_of_one_process_and_replicas_do_not_drift(folder, name):
    one = reports(folder, "one")[0]
    seen: dict[str, str] = {}
    for report in reports(folder, name):
        assert report["losses"] == pytest.approx(one["losses"], rel=1e-6)
        assert report["norms"] == pytest.approx(one["norms"], rel=1e-6)
        assert report["base_moved"] == []
        for parameter, digest in report["parameters"].items():
            assert seen.setdefault(parameter, digest) == digest, parameter


@pytest.mark.parametrize("name", MANY)
def test_the_file_of_an_adapter_is_whole_whatever_layout_wrote_it(folder, name):
    expected, found = (load_file(folder / case / "adapter.safetensors") for case in ("one", name))
    assert set(found) == set(expected)
    for parameter, value in found.items():
        assert torch.allclose(value, expected[parameter], rtol=1e-4, atol=1e-6), parameter


@pytest.mark.parametrize("name", ["adam-one", "adam-sharded", "adam-tensor"])
def test_a_checkpoint_of_adapters_goes_on_with_the_same_loss(folder, name):
    one = reports(folder, "adam-one")[0]
    assert one["losses"][0] > one["continued"]
    for report in reports(folder, name):
        assert report["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert report["resumed"] == report["continued"]
