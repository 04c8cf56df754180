"""What fits in memory: the VAE in tiles where it must, and one line where nothing helps."""

import logging

import numpy as np
import pytest
import torch
from generation_tools import make_generator

from mugv.errors import UserError
from mugv.generation import Given, room
from mugv.generation.room import free_memory, memory_explained, tiling_for, vae_bytes
from mugv.recipe.models import VAEModel
from mugv.vae import Tiling, VideoVAE

FULL = (720, 1280)


@pytest.fixture(scope="module")
def full_vae():
    with torch.device("meta"):
        return VideoVAE(VAEModel())


@pytest.fixture
def memory(monkeypatch):
    """Sets how much is free, in GB."""
    return lambda gigabytes: monkeypatch.setattr(room, "free_memory", lambda device: gigabytes * 1e9)


def test_free_memory_is_that_of_this_machine():
    assert 0 < free_memory(torch.device("cpu")) < 1e14


@pytest.mark.parametrize("gigabytes", [100, 12, 6, 4, 3])
def test_frames_are_cut_only_where_memory_asks_for_it(full_vae, memory, gigabytes):
    memory(gigabytes)
    tiling = tiling_for("auto", full_vae, FULL, 1)
    whole = vae_bytes(full_vae, FULL, FULL)
    assert (tiling is None) == (whole <= 0.8e9 * gigabytes)
    if tiling:
        assert vae_bytes(full_vae, FULL, (tiling.height, tiling.width)) <= 0.8e9 * gigabytes
        assert len(tiling.tiles(90, 160)) > 1


def test_the_estimate_is_above_what_was_measured_at_full_width(full_vae):
    """Peaks of decoding 41 frames of 256 x 256, and of the temporal net on six latents of 512 x 512, in fp32 on a CPU."""
    for size, measured in (((256, 256), 933e6), ((512, 512), 1180e6)):
        assert measured < vae_bytes(full_vae, size, size) < 2 * measured


def test_half_the_bytes_a_value_take_half_the_memory(full_vae):
    with torch.device("meta"):
        half = VideoVAE(VAEModel()).to(torch.bfloat16)
    assert vae_bytes(half, FULL, FULL) * 2 == vae_bytes(full_vae, FULL, FULL)


@pytest.mark.parametrize("size", [(16, 16), (48, 48), (240, 4096), (256, 256), (1088, 1920), (4096, 4096)])
def test_without_any_memory_the_smallest_tiles_are_taken(full_vae, memory, size):
    memory(0)
    tiling = tiling_for("auto", full_vae, size, 1)
    assert (tiling is None) == (min(size) < 256)
    assert tiling is None or min(tiling.height, tiling.width) < 256


def test_a_choice_of_tiles_is_obeyed_and_auto_is_named_once(full_vae, memory, caplog):
    memory(3.9)
    assert tiling_for(None, full_vae, FULL, 1) is None
    assert tiling_for(Tiling(256, 256), full_vae, FULL, 1) == Tiling(256, 256)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            tiling_for("auto", full_vae, FULL, 1)
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("VAE: frames of 720x1280 in tiles of ")


def test_a_clip_in_tiles_is_nearly_the_clip(monkeypatch):
    generator = make_generator(size=(64, 64))
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, 64, 64, 3), dtype=np.uint8)
    latents = torch.randn(1, 4, 3, 8, 8)
    whole = generator.decode(latents), generator.encode(picture, (64, 64))
    generator.tiling = Tiling(48, 48, 16)
    widths = []
    decode = VideoVAE.decode_window
    monkeypatch.setattr(VideoVAE, "decode_window", lambda self, z, **more: widths.append(z.shape[3:]) or decode(self, z, **more))
    tiles = generator.decode(latents, Given()), generator.encode(picture, (64, 64))
    assert set(widths) == {(5, 5)}
    for a, b in zip(whole, tiles, strict=True):
        assert a.shape == b.shape
        assert not np.array_equal(a, b)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
def test_memory_that_runs_out_is_one_line(error):
    with (
        pytest.raises(UserError, match=r"^720x1280, 105 frames: memory ran out; ask for a smaller size"),
        memory_explained("720x1280, 105 frames"),
    ):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), memory_explained("a"):
        raise RuntimeError("shapes differ")


def test_size_20000_is_refused_on_a_usual_machine(memory):
    memory(16)
    with pytest.raises(UserError, match=r"size 20000x20000, 25 frames: needs at least 30 GB of memory, 16 GB are free"):
        make_generator().generate(["a"], size=(20000, 20000))
