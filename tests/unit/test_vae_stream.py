"""A long or large video passes the VideoVAE piece by piece, with the numbers of the whole."""

import itertools

import pytest
import torch
from torch import nn
from vae_tools import TINY, random_vae

from mugv.errors import UserError
from mugv.recipe.models import VAEModel
from mugv.vae import Tiling, VideoVAE, model
from mugv.vae.linear_start import start_linear
from mugv.vae.tiling import crossfade, even_spans, spans, tiled


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return random_vae()


def cut(video: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    return list(video.split([*sizes, video.shape[2] - sum(sizes)], dim=2))


@pytest.mark.parametrize("frames", [16, 33])
@pytest.mark.parametrize("sizes", [[], [1], [5, 0, 9], [1] * 15, [8, 7]])
def test_a_streamed_clip_has_the_latents_of_the_whole(vae, frames, sizes):
    video = torch.rand(2, 3, frames, 32, 16)
    whole, parts = vae.encode(video), list(vae.encode_stream(iter(cut(video, sizes)), frames))
    assert torch.allclose(torch.cat([p.mean for p in parts], 2), whole.mean, atol=1e-5)
    assert torch.allclose(torch.cat([p.logvar for p in parts], 2), whole.logvar, atol=1e-5)


@pytest.mark.parametrize("frames", [24, 33])
def test_small_pieces_in_time_give_the_numbers_of_the_whole(vae, frames, monkeypatch):
    """Tiled equals untiled to 1e-5 where windows match: one frame at a time through the trunk, one chunk through the temporal net."""
    video, z = torch.rand(1, 3, frames, 32, 32), torch.randn(1, 24, 5, 4, 4)
    encoded, decoded = vae.encode(video).mean, vae.decode(z, window=2)
    monkeypatch.setattr(model, "MAP_BYTES", 1)
    assert len(list(vae.encode_stream([video], frames))) == encoded.shape[2]
    assert torch.allclose(vae.encode(video).mean, encoded, atol=1e-5)
    blocks = list(vae.decode_stream(z, window=2))
    assert [b.shape[2] for b in blocks] == [16, 16, 8]
    assert torch.allclose(torch.cat(blocks, 2), decoded, atol=1e-5)


def test_a_stream_starts_before_its_video_is_complete(vae):
    taken = []

    def blocks():
        for i in range(100):
            taken.append(i)
            yield torch.rand(1, 3, 8, 480, 640)

    next(iter(vae.encode_stream(blocks(), 800)))
    assert len(taken) <= model.CHUNKS
    assert next(iter(vae.decode_stream(torch.randn(1, 24, 500, 2, 2)))).shape[2] == 48


@pytest.mark.parametrize(("side", "frames"), [(16, 4), (256, 4), (512, 1)])
def test_no_more_frames_pass_the_trunk_at_once_than_in_the_released_code(side, frames, monkeypatch):
    """Its encoder and decoder take four; ours took 64 of small ones, for twice the memory. Full width, on the meta device."""
    with torch.device("meta"):
        net = VideoVAE(VAEModel())
        video, z = torch.empty(1, 3, 17, side, side), torch.empty(1, 24, 3, side // 8, side // 8)
    seen = []
    for trunk in (net.spatial_vae.encoder, net.spatial_vae.decoder):
        trunk.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        for features in (net.encode_frames(video), net.temporal_vae.features(z)):
            assert features.shape[2] in (17, 24)
        net.decode_frames(features)
    assert max(seen) == frames
    assert sum(seen) == 17 + 24


def test_streams_build_no_graph_and_leave_the_callers_gradients_alone(vae):
    for part in vae.encode_stream([torch.rand(1, 3, 8, 16, 16)], 8):
        assert not part.mean.requires_grad
        assert torch.is_grad_enabled()
    for block in vae.decode_stream(torch.randn(1, 24, 2, 2, 2), window=1):
        assert not block.requires_grad
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(("n", "length", "overlap"), itertools.product((1, 5, 6, 7, 13, 24), (1, 4, 6, 8), (0, 1, 2, 3, 4)))
def test_pieces_cover_every_position_and_share_the_overlap(n, length, overlap):
    if overlap > length // 2:
        return
    for found in (spans(n, length, overlap), even_spans(n, length, overlap)):
        assert found[0][0] == 0
        assert found[-1][1] == n
        assert all(a[1] - b[0] == overlap for a, b in itertools.pairwise(found))
        assert all(a[1] <= c[0] for a, c in zip(found, found[2:], strict=False))
        assert all(0 < stop - start <= length for start, stop in found)
    assert len(even_spans(n, length, overlap)) <= len(spans(n, length, overlap))


def test_a_last_tile_is_as_wide_as_the_others():
    assert spans(44, 40, 8)[-1] == (32, 44)
    assert even_spans(44, 40, 8) == [(0, 26), (18, 44)]


@pytest.mark.parametrize(("window", "overlap"), [(4, 1), (4, 2), (6, 3), (2, 1)])
@pytest.mark.parametrize("latents", [1, 2, 5, 7, 13])
def test_overlapping_windows_give_each_frame_once_and_blend_linearly(vae, window, overlap, latents):
    z = torch.randn(1, 24, latents, 2, 2)
    out, clip = vae.decode(z, window, overlap), vae.decode_clip(z, window, overlap)
    assert out.shape[2] == 8 * latents
    assert torch.allclose(clip, out[:, :, 7:], atol=1e-5)
    first = vae.decode(z[:, :, :window])
    sole = 8 * (window - overlap)
    assert torch.allclose(out[:, :, :sole], first[:, :, :sole], atol=1e-5)
    if latents > window:
        second = vae.decode(z[:, :, window - overlap : 2 * window - overlap])
        for frame in (0, 8 * overlap - 1):
            weight = (frame + 0.5) / (8 * overlap)
            expected = (1 - weight) * first[:, :, sole + frame] + weight * second[:, :, frame]
            assert torch.allclose(out[:, :, sole + frame], expected, atol=1e-5)


def test_the_recipe_sets_the_overlap(vae):
    z = torch.randn(1, 24, 7, 2, 2)
    config = TINY.model_copy(update={"decode_window": 4, "decode_overlap": 2})
    other = VideoVAE(config).eval()
    other.load_state_dict(vae.state_dict())
    assert torch.equal(other.decode(z), vae.decode(z, 4, 2))
    assert not torch.allclose(other.decode(z), vae.decode(z, 4), atol=1e-3)
    with pytest.raises(ValueError, match="decode_overlap 4 exceeds half of decode_window 6"):
        VAEModel(decode_overlap=4)


def test_no_overlap_leaves_blocks_as_they_are():
    blocks = [torch.rand(1, 1, 8, 1, 1) for _ in range(3)]
    assert all(a is b for a, b in zip(crossfade(blocks, 0), blocks, strict=True))


@pytest.mark.parametrize(("into", "out"), [(8, 1), (1, 8)])
@pytest.mark.parametrize("overlap", [0, 16, 32])
def test_tiles_of_a_net_that_sees_single_positions_join_without_a_seam(into, out, overlap):
    """Blend weights sum to 1 and tiles lie where they belong: a position-wise net gives the same tiled and whole."""
    pool = nn.AvgPool3d((1, 8, 8)) if into == 8 else nn.Upsample(scale_factor=(1, 8, 8))
    x = torch.rand(1, 2, 3, 14 * into, 20 * into)
    assert torch.allclose(tiled(pool, x, into, out, Tiling(64, 80, overlap)), pool(x), atol=1e-6)


def test_one_tile_that_covers_the_frame_changes_nothing(vae):
    video, z = torch.rand(1, 3, 9, 32, 48), torch.randn(1, 24, 3, 4, 6)
    for tiling in (Tiling(32, 48, 16), Tiling(128, 128)):
        assert torch.equal(vae.encode(video, tiling).mean, vae.encode(video).mean)
        assert torch.equal(vae.decode(z, tiling=tiling), vae.decode(z))


def test_tiles_of_smooth_content_stay_close_to_the_whole_frame():
    """Norms and attention see a tile: the difference is bounded, not zero."""
    torch.manual_seed(0)
    net = VideoVAE(TINY.model_copy(update={"temporal_channels": (64, 64, 64, 64)})).eval()
    rows, columns, time = torch.arange(96)[:, None] / 5, torch.arange(128) / 5, torch.arange(8)[:, None, None] / 8
    video = torch.stack([torch.sin(rows + columns + time), torch.cos(columns - time + 0 * rows), torch.sin(rows - time + 0 * columns)])[
        None
    ]
    start_linear(net.temporal_vae, net.encode_frames(video).detach().permute(0, 3, 4, 2, 1).flatten(0, 2))
    tiling = Tiling(64, 80, 32)
    whole, part = net.encode(video).mean, net.encode(video, tiling).mean
    made, tiles = net.decode(whole), net.decode(whole, tiling=tiling)
    for a, b in ((whole, part), (made, tiles)):
        assert a.shape == b.shape
        assert 0 < float((a - b).square().mean().sqrt() / a.std()) < 0.1


@pytest.mark.parametrize(
    ("video", "complaint"),
    [
        (torch.zeros(1, 3, 10, 16, 16), "8k or 1 \\+ 8k frames .*, got 10"),
        (torch.zeros(1, 3, 0, 16, 16), "got 0"),
        (torch.zeros(1, 3, 8, 24, 16), "multiples of 16, got 24 x 16"),
        (torch.zeros(1, 3, 8, 16, 20), "multiples of 16, got 16 x 20"),
        (torch.zeros(1, 3, 8, 0, 16), "multiples of 16, got 0 x 16"),
        (torch.zeros(1, 1, 8, 16, 16), "\\[batch, 3, frames, height, width\\], got \\[1, 1, 8, 16, 16\\]"),
        (torch.zeros(3, 8, 16, 16), "got \\[3, 8, 16, 16\\]"),
        (torch.zeros(1, 3, 8, 16, 16, dtype=torch.uint8), "floats in \\[-1, 1\\], got torch.uint8"),
    ],
)
def test_a_video_that_cannot_be_encoded_is_refused_in_one_line(vae, video, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        vae.encode(video)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "more", "complaint"),
    [
        ((24, 2, 2, 2), {}, "latents are \\[batch, 24, latent frames, height, width\\], got \\[24, 2, 2, 2\\]"),
        ((2,), {}, "got \\[2\\]"),
        ((1, 16, 2, 2, 2), {}, "got \\[1, 16, 2, 2, 2\\]"),
        ((1, 24, 0, 2, 2), {}, "got \\[1, 24, 0, 2, 2\\]"),
        ((1, 24, 2, 2, 2), {"window": 0}, "at least 1 latent, got 0"),
        ((1, 24, 2, 2, 2), {"window": -3}, "at least 1 latent, got -3"),
        ((1, 24, 2, 2, 2), {"overlap": -1}, "windows of 6 latents is 0 to 3, got -1"),
        ((1, 24, 2, 2, 2), {"window": 4, "overlap": 3}, "windows of 4 latents is 0 to 2, got 3"),
    ],
)
def test_latents_and_windows_that_cannot_be_decoded_are_refused_in_one_line(vae, shape, more, complaint):
    for decode in (vae.decode, vae.decode_clip):
        with pytest.raises(UserError, match=complaint):
            decode(torch.zeros(shape), **more)


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ((64, 40, 16), "got 64 x 40"),
        ((0, 64, 0), "got 0 x 64"),
        ((64, 64, 12), "got 12"),
        ((64, 64, 40), "0 to 32"),
        ((64, 64, -8), "got -8"),
    ],
)
def test_a_tiling_that_makes_no_sense_is_refused_in_one_line(sizes, complaint):
    with pytest.raises(UserError, match=complaint):
        Tiling(*sizes)


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ([], "a stream of 17 frames ended after 0"),
        ([16], "a stream of 17 frames ended after 16"),
        ([16, 2], "a stream of 17 frames of .* frame 18"),
    ],
)
def test_a_stream_of_the_wrong_length_is_refused(vae, blocks, complaint):
    with pytest.raises(UserError, match=complaint):
        list(vae.encode_stream((torch.zeros(1, 3, n, 16, 16) for n in blocks), 17))


def test_a_stream_whose_blocks_differ_in_size_is_refused(vae):
    with pytest.raises(UserError, match=r"brought \[1, 3, 8, 32, 16\]"):
        list(vae.encode_stream([torch.zeros(1, 3, 8, 16, 16), torch.zeros(1, 3, 8, 32, 16)], 16))
