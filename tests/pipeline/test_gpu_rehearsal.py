"""benchmarks/gpu/run.sh from end to end on this CPU at tiny sizes: a borrowed GPU is no place to find its mistakes."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from test_gpu_kit import hollow_kit

from benchmarks.gpu import kit
from benchmarks.gpu.dit import Setting, measure
from benchmarks.gpu.parts import Results, Sizes
from benchmarks.gpu.summary import summary
from benchmarks.vae import QUARTER, make_vae
from benchmarks.vae import measure as measure_vae
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel

HANG = "dit-te"
"""The part that hangs here, deaf to SIGTERM; one that measures nothing on a CPU."""
BARE = """
import signal, sys, time
from importlib.machinery import PathFinder
BLOCKED = {blocked!r}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        found = super().find_spec(name, path, target)
        brought = found and any("/_vendor/" in str(place) for place in (found.origin, *(found.submodule_search_locations or ())))
        return found if brought or name.split(".")[0] not in BLOCKED else None

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
if {hang!r} in sys.orig_argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
"""
"""sitecustomize of the bare machine."""


def absent_there() -> list[str]:
    """Top-level modules of this environment that neither the kit nor torch brings."""
    there, waiting = {"pip", "mugv"}, ["torch", *kit.PACKAGES]
    while waiting:
        name = kit._normal(waiting.pop())
        if name not in there:
            there.add(name)
            needs = metadata.requires("torch") if name == "torch" else [] if name in kit.PACKAGES else metadata.requires(name)
            waiting += [re.split(r"[^\w.-]", need)[0] for need in needs or [] if "extra ==" not in need and installed(need)]
    owners = metadata.packages_distributions()
    return sorted(top for top, dists in owners.items() if not top.startswith("_") and there.isdisjoint(map(kit._normal, dists)))


def installed(need: str) -> bool:
    try:
        return bool(metadata.version(re.split(r"[^\w.-]", need)[0]))
    except metadata.PackageNotFoundError:
        return False


def run(folder: Path, *parts: str, **environment: str) -> tuple[int, list[dict]]:
    """Exit code and lines of a rehearsal with a kit as pinned; its results are in `folder`/out."""
    hollow_kit(folder / "kit")
    given = {"MUGV_GPU_KIT": str(folder / "kit"), "OUT": str(folder / "out"), "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(kit.ROOT / "benchmarks/gpu/run.sh"), "--rehearse", *parts]
    code = subprocess.run(command, env={**os.environ, **given, **environment}, timeout=3000).returncode
    return code, [json.loads(line) for line in (folder / "out/results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[dict], Path]:
    """Exit code, lines and folder of a whole run on a bare machine on which one part hangs."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(BARE.format(blocked=set(absent_there()), hang=HANG))
    order = [HANG, "tests", "dit-sdpa", "dit-varlen", "vae", "memory", "sampler", "dit-flash"]
    patient = [f"{part}=600" for part in order[1:]]  # a GPU machine is not shared; the one that tests may be
    code, lines = run(folder, f"{HANG}=1", *order, *patient, PYTHONPATH=str(folder), MUGV_GPU_SECONDS="3000")
    return code, lines, folder / "out"


def test_no_part_fails_for_want_of_a_package_or_a_device(rehearsed) -> None:
    _, lines, out = rehearsed
    ended = {line["part"]: line["status"] for line in lines if "status" in line}
    assert {part for part, status in ended.items() if status == "passed"} == {*ended} - {HANG}, (out / "log.txt").read_text()[-3000:]
    assert len(ended) == 8


def test_hanging_part_is_cut_and_later_ones_still_run(rehearsed) -> None:
    code, lines, _ = rehearsed
    ended = [line for line in lines if "status" in line]
    assert (ended[0]["part"], ended[0]["status"], ended[0]["limit"]) == (HANG, "cut at its limit", 1)
    assert ended[0]["seconds"] < 10
    assert code == 1


@pytest.mark.parametrize(
    ("part", "cases", "figures"),
    [
        ("dit-sdpa", 1, ["step s", "TFLOP/s", "MFU %", "matmul ceiling TFLOP/s", "attention ms", "measured GB", "predicted GB"]),
        ("vae", 2, ["seconds", "frames/s", "peak MB above weights"]),
        ("memory", 3, ["predicted GB", "measured GB", "prediction off %"]),
        ("sampler", 2, ["seconds", "outside the network %"]),
    ],
)
def test_part_s_figures_are_all_there_and_finite(rehearsed, part: str, cases: int, figures: list[str]) -> None:
    found = [line["values"] for line in rehearsed[1] if line["part"] == part and "values" in line]
    assert len(found) == cases
    assert all(math.isfinite(values[name]) for values in found for name in figures)


def test_absent_back_end_is_said_and_a_rehearsal_passes_for_no_measurement(rehearsed) -> None:
    text = (rehearsed[2] / "summary.md").read_text()
    assert "flash_attn is not installed" in text
    assert "none: REHEARSAL on a CPU, whose figures mean nothing" in text
    assert f"{HANG}: cut at its limit after" in text
    assert "4 skipped" in text


def test_nothing_comes_back_but_the_three_files(rehearsed) -> None:
    assert {path.name for path in rehearsed[2].iterdir()} == {"results.jsonl", "summary.md", "log.txt"}


def test_whole_run_never_outlasts_the_borrowed_time(tmp_path: Path) -> None:
    code, lines = run(tmp_path, "vae", "dit-te", MUGV_GPU_SECONDS="1")
    assert code == 1
    assert {line["part"]: line["status"] for line in lines if "status" in line} == {"vae": "no time left", "dit-te": "no time left"}


def test_run_in_which_all_passed_says_so(tmp_path: Path) -> None:
    code, lines = run(tmp_path, "dit-flash")
    assert code == 0
    assert [line.get("status") for line in lines][-1] == "passed"


def test_figure_that_is_no_number_fails_its_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vae encode: seconds is nan"):
        Results(tmp_path / "results.jsonl", "vae").add("encode", seconds=math.nan)
    assert not (tmp_path / "results.jsonl").exists()


def test_cut_part_s_figures_are_in_the_summary() -> None:
    lines = [{"part": "memory", "case": "recompute none", "values": {"measured GB": 1.5}}]
    assert "| recompute none | 1.5 |" in summary(lines)
    failed = {"outcome": "failed", "reason": "E assert 1 == 2", "seconds": 0.1}
    tests = [{"part": "tests", "case": "a", "values": {"outcome": "passed"}}, {"part": "tests", "case": "b", "values": failed}]
    assert "1 passed, 1 failed" in summary(tests)
    assert "| b | failed | E assert 1 == 2 | 0.1 |" in summary(tests)


@pytest.mark.parametrize("back_end", ["sdpa", "varlen"])
def test_shapes_of_the_real_sizes_hold(back_end: str) -> None:
    """On torch's meta device, which computes shapes alone: the rehearsal's sizes are others."""
    sizes = Sizes.real()
    layout = Parallel(precision="bf16", attention=back_end)
    setting = Setting("meta", DiTModel(hidden=sizes.hidden, heads=sizes.heads), sizes.latent, 300, layout, 1)
    assert measure(setting, sizes.blocks)["tokens"] == 50_402


def test_shapes_of_the_real_video_hold() -> None:
    vae = make_vae(QUARTER, "cpu").to("meta")
    for case in ("encode", "decode"):
        assert measure_vae(vae, case, 17, Sizes.real().pixels)["seconds"] > 0
