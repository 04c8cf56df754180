"""Activations of a rank under TP, SP, CP and PP: the memory model against what autograd keeps in two processes."""

from __future__ import annotations

import json

import pytest
from forked import launch

CASES: dict[str, dict] = {
    "tp2": {"tensor": 2},
    "tp2 sp": {"tensor": 2, "sequence_parallel": True},
    "tp2 sp selective": {"tensor": 2, "sequence_parallel": True, "recompute": "selective"},
    "tp2 sp full": {"tensor": 2, "sequence_parallel": True, "recompute": "full"},
    "tp2 sp bf16": {"tensor": 2, "sequence_parallel": True, "precision": "bf16"},
    "cp2 ulysses": {"context": 2, "context_method": "ulysses"},
    "cp2 gather": {"context": 2, "context_method": "gather"},
    "pp2": {"pipeline": 2},
    "pp2 selective": {"pipeline": 2, "recompute": "selective"},
    "pp2 full": {"pipeline": 2, "recompute": "full"},
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, int]]]:
    folder = tmp_path_factory.mktemp("memory")
    job = folder / "job.json"
    job.write_text(json.dumps([{"name": name, "layout": layout} for name, layout in CASES.items()]))
    launch("memory_worker", [(2, [job, folder])])
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return {name: [rank[name] for rank in ranks] for name in CASES}


@pytest.mark.parametrize("case", CASES)
def test_activations_of_a_rank_are_within_5_percent_of_what_autograd_keeps(reports: dict[str, list[dict[str, int]]], case: str) -> None:
    for rank in reports[case]:
        assert rank["predicted"] == pytest.approx(rank["measured"], rel=0.05)
