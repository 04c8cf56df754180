"""`precision: auto` must not choose bf16 where it is emulated, and what it chose must be told and recorded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from mugv import precision
from mugv.recipe import load_recipe
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel, VAETraining
from mugv.training.engine import build_model


@pytest.fixture(autouse=True)
def plain_processor(monkeypatch):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    precision._resolve.cache_clear()
    yield
    precision._resolve.cache_clear()


def processor(monkeypatch, **units: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "cpu_name": "a CPU", **units})


@pytest.mark.parametrize(
    ("units", "expected"),
    [({}, "fp32"), ({"avx512_bf16": False, "amx_bf16": False}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_auto_follows_the_processors_units(monkeypatch, units, expected):
    processor(monkeypatch, **units)
    assert precision.resolve("auto", "cpu", autocast=True) == expected
    assert precision.resolve("auto", "cpu") == "fp32"
    assert precision.resolve("auto", "cuda") == precision.resolve("auto", "cuda", autocast=True) == "bf16"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core"),
        ("DNNL_MAX_CPU_ISA", "AVX2_VNNI"),
        ("ATEN_CPU_CAPABILITY", "avx2"),
        ("ATEN_CPU_CAPABILITY", "default"),
    ],
)
def test_an_imitated_older_processor_counts_as_one(monkeypatch, name, value):
    processor(monkeypatch, avx512_bf16=True)
    assert precision.resolve("auto", "cpu", autocast=True) == "bf16"
    monkeypatch.setenv(name, value)
    assert precision.resolve("auto", "cpu", autocast=True) == "fp32"
    assert not precision.cpu_has_bf16()


@pytest.mark.parametrize("value", ["AVX512_CORE_BF16", "AVX512_CORE_AMX", "DEFAULT", "ALL"])
def test_an_isa_that_has_units_takes_nothing_away(monkeypatch, value):
    processor(monkeypatch, amx_bf16=True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", value)
    assert precision.cpu_has_bf16()


def test_bf16_by_name_on_such_a_processor_is_done_and_warned_about_once(monkeypatch, caplog):
    processor(monkeypatch)
    with caplog.at_level(logging.INFO, "mugv.precision"):
        assert [precision.resolve("bf16", "cpu", autocast=True) for _ in range(3)] == ["bf16"] * 3
        assert precision.resolve("auto", "cpu") == "fp32"
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "times slower than fp32" in warnings[0]
    assert any("precision: fp32 on cpu (asked for: auto; bf16 units: no)" in r.getMessage() for r in caplog.records)


def test_a_run_with_emulated_bf16_says_so_in_one_line(monkeypatch):
    processor(monkeypatch)
    assert precision.warning(load_recipe(Path("configs/tiny.yaml"))) == ""
    named = load_recipe(Path("configs/tiny.yaml"), ["vae.train.precision=bf16"])
    line = precision.warning(named)
    assert line.startswith("vae.train.precision: bf16 on a processor without bf16 units is 6 to 15 times slower")
    assert "\n" not in line
    processor(monkeypatch, amx_bf16=True)
    assert precision.warning(named) == ""


def test_auto_is_the_default_everywhere():
    assert Parallel().precision == VAETraining(phases=()).precision == "auto"
    for path in sorted(Path("configs").glob("*.yaml")):
        recipe = load_recipe(path)
        assert (recipe.parallel.precision, recipe.vae.train.precision) == ("auto", "auto"), path


def test_the_dit_is_fp32_on_a_cpu_whatever_its_units(monkeypatch):
    processor(monkeypatch, amx_bf16=True)
    model = build_model(DiTModel(layers=1, hidden=24, heads=2, latent_channels=4), 16, 1, Parallel(), 0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
