"""The VideoVAE keeps the released structure and its frame bookkeeping."""

import pytest
import torch
from vae_tools import TINY, random_vae

from mugv.errors import UserError
from mugv.recipe.models import VAEModel
from mugv.vae import VideoVAE, load_vae, save_vae
from mugv.vae.temporal import Conv3d, DepthToTime


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return random_vae()


def encode(vae: VideoVAE, video: torch.Tensor) -> torch.Tensor:
    return vae.encode(video).mean


def test_each_part_has_the_released_parameter_count():
    with torch.device("meta"):
        net = VideoVAE(VAEModel())
    parts = {
        "spatial encoder": (net.spatial_vae.encoder, 34_163_592),
        "spatial decoder": (net.spatial_vae.decoder, 49_490_179),
        "temporal encoder": (net.temporal_vae.encoder, 146_639_792),
        "temporal decoder": (net.temporal_vae.decoder, 181_456_384),
    }
    assert {k: sum(p.numel() for p in m.parameters()) for k, (m, _) in parts.items()} == {k: n for k, (_, n) in parts.items()}
    assert sum(p.numel() for p in net.spatial_vae.image_only()) == 37_896 + 18_944


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (8, 1), (9, 2), (17, 3), (73, 10), (105, 14)])
def test_appendix_b3_a_clip_gets_the_published_number_of_latents(vae, frames, latents):
    mean = vae.encode(torch.rand(1, 3, frames, 16, 16)).mean
    assert mean.shape == (1, 24, latents, 2, 2)
    assert vae.decode(mean).shape == (1, 3, 8 * latents, 16, 16)


def test_appendix_b3_thirteen_latents_decode_to_104_frames_in_windows_of_six_six_one(vae):
    z = torch.randn(1, 24, 13, 2, 2)
    whole = vae.decode(z)
    with torch.no_grad():
        parts = [vae.decode_window(z[:, :, a:b]) for a, b in ((0, 6), (6, 12), (12, 13))]
    assert whole.shape[2] == 104
    assert torch.allclose(whole, torch.cat(parts, 2), atol=1e-6)
    assert not torch.allclose(whole, vae.decode(z, window=4), atol=1e-3)


@pytest.mark.parametrize("latents", [1, 2, 7, 14])
def test_a_clip_loses_the_copies_of_frame_0_and_no_real_frame(vae, latents):
    """Defect I4 of the release: it trims at the last window, so seven copies stay and seven real frames go."""
    z = torch.randn(1, 24, latents, 2, 2)
    clip = vae.decode_clip(z)
    assert clip.shape[2] == 1 + 8 * (latents - 1)
    assert torch.allclose(clip, vae.decode(z)[:, :, 7:], atol=1e-5)


def test_appendix_b4_a_change_in_frames_8_to_15_reaches_latent_1_only(vae):
    video = torch.rand(1, 3, 24, 16, 16)
    other = video.clone()
    other[:, :, 8:16] = torch.rand(1, 3, 8, 16, 16)
    change = (encode(vae, video) - encode(vae, other)).abs().amax(dim=(0, 1, 3, 4))
    assert change[1] > 1e-3
    assert change[0] == 0
    assert change[2] == 0


def test_appendix_b5_a_still_image_has_the_first_latent_of_a_clip_that_starts_with_it(vae):
    video = torch.rand(1, 3, 17, 16, 16)
    first = encode(vae, video)[:, :, :1]
    for still in (video[:, :, :1].expand(-1, -1, 8, -1, -1), video[:, :, :1]):
        assert torch.allclose(encode(vae, still), first, atol=1e-5)
    assert not torch.allclose(encode(vae, video[:, :, 1:])[:, :, :1], first, atol=1e-2)


def test_training_and_encoding_see_the_same_posterior(vae):
    video = torch.rand(2, 3, 16, 16, 16)
    posterior = vae.posterior(vae.encode_frames(video))
    assert posterior.mean.requires_grad
    assert torch.allclose(posterior.mean.detach(), vae.encode(video).mean, atol=1e-5)
    assert torch.allclose(posterior.logvar.detach(), vae.encode(video).logvar, atol=1e-5)


def test_a_sample_has_the_posteriors_spread_and_repeats_with_its_generator(vae):
    posterior = vae.encode(torch.rand(1, 3, 8, 64, 64))
    draws = [posterior.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    standard = (draws[0] - posterior.mean) * torch.exp(-0.5 * posterior.logvar)
    assert float(standard.std()) == pytest.approx(1.0, rel=0.1)


def test_depth_to_time_takes_time_as_the_fastest_channel():
    layer = DepthToTime(1)
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.bias.copy_(torch.tensor([10.0, 20.0]))
        out = layer(torch.zeros(1, 1, 2, 1, 1))
    assert out.flatten().tolist() == [10, 20, 10, 20]


def test_bf16_stays_close_to_fp32(vae):
    video = torch.rand(1, 3, 8, 32, 32) * 2 - 1
    exact = encode(vae, video)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encode(vae, video)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_bf16_weight_gradients_of_short_windows_are_those_of_fp32(frames):
    torch.manual_seed(0)
    conv, x = Conv3d(16, 16, 3), torch.randn(4, 16, frames, 4, 4)
    exact = torch.autograd.grad(conv(x).square().sum(), conv.conv.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.autograd.grad(conv(x).float().square().sum(), conv.conv.weight)[0]
    assert float((rough - exact).norm() / exact.norm()) < 0.05


def test_a_fresh_net_has_a_small_posterior_noise_and_a_signal():
    with torch.no_grad():
        posterior = VideoVAE(TINY).encode(torch.rand(1, 3, 8, 32, 32))
    assert float(posterior.logvar.mean()) == pytest.approx(-6.0)
    assert 0.1 < float(posterior.mean.std()) < 10
    noise = posterior.sample(torch.Generator().manual_seed(0)) - posterior.mean
    assert float(noise.std()) == pytest.approx(0.05, rel=0.3)


def test_a_saved_vae_comes_back_with_the_same_output(vae, tmp_path):
    save_vae(vae, tmp_path)
    again = load_vae(tmp_path)
    video = torch.rand(1, 3, 8, 16, 16)
    assert torch.equal(encode(vae, video), encode(again, video))


def test_a_broken_vae_folder_is_named_in_one_line(vae, tmp_path):
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        load_vae(tmp_path)
    save_vae(vae, tmp_path)
    other = TINY.model_copy(update={"latent_channels": 16})
    (tmp_path / "config.json").write_text(other.model_dump_json())
    with pytest.raises(
        UserError, match=r"does not fit config\.json: 9 of 272 tensors differ: scale is \[1, 24, 1, 1, 1\], expected \[1, 16"
    ):
        load_vae(tmp_path)
    save_vae(vae, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "digests.json").unlink()  # of a folder that another program made
    with pytest.raises(UserError, match="no readable VAE"):
        load_vae(tmp_path)
