"""The published VAE file loads by name, and a file that is not it is refused in one line."""

import math

import pytest
import torch

from mugv.errors import UserError
from mugv.recipe.models import VAEModel
from mugv.vae import RELEASED_SCALE, RELEASED_SHIFT, VideoVAE, count_parameters, load_release, save_release

Shapes = dict[str, tuple[int, ...]]
SMALL = VAEModel(
    base_channels=8, channel_multipliers=(1, 1, 2, 2), blocks_per_level=1, temporal_channels=(8, 8, 16, 16), temporal_blocks=2, groups=4
)


def conv(name: str, a: int, b: int, kernel: tuple[int, ...], bias: bool = True) -> Shapes:
    return {f"{name}.weight": (b, a, *kernel)} | ({f"{name}.bias": (b,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def resnet(name: str, a: int, b: int) -> Shapes:
    found = norm(f"{name}.norm1", a) | conv(f"{name}.conv1", a, b, (3, 3)) | norm(f"{name}.norm2", b) | conv(f"{name}.conv2", b, b, (3, 3))
    return found | (conv(f"{name}.conv_shortcut", a, b, (1, 1)) if a != b else {})


def middle(name: str, width: int) -> Shapes:
    found = norm(f"{name}.attentions.0.group_norm", width)
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        found |= conv(f"{name}.attentions.0.{part}", width, width, ())
    return found | resnet(f"{name}.resnets.0", width, width) | resnet(f"{name}.resnets.1", width, width)


def trunk(side: str, levels: list[tuple[int, int]], blocks: int, resample: str, ends: tuple[int, int, int]) -> Shapes:
    """`levels`: width before and after; `ends`: channels into conv_in, out of conv_out, and of the norm before conv_out."""
    name = f"spatial_vae.module.{side}"
    middle_width = levels[-1][1] if side == "encoder" else levels[0][0]
    found = conv(f"{name}.conv_in", ends[0], levels[0][0], (3, 3)) | middle(f"{name}.mid_block", middle_width)
    for i, (before, width) in enumerate(levels):
        level = f"{name}.{resample}_blocks.{i}"
        for block in range(blocks):
            found |= resnet(f"{level}.resnets.{block}", before if block == 0 else width, width)
        found |= conv(f"{level}.{resample}samplers.0.conv", width, width, (3, 3)) if i < 3 else {}
    return found | norm(f"{name}.conv_norm_out", ends[2]) | conv(f"{name}.conv_out", ends[2], ends[1], (3, 3))


def res_blocks(name: str, a: int, b: int, count: int) -> Shapes:
    found: Shapes = {}
    for i in range(count):
        found |= res_block(f"{name}.{i}", a if i == 0 else b, b)
    return found


def res_block(name: str, a: int, b: int) -> Shapes:
    found = norm(f"{name}.norm1", a) | conv(f"{name}.conv1.conv", a, b, (3, 3, 3), bias=False)
    found |= norm(f"{name}.norm2", b) | conv(f"{name}.conv2.conv", b, b, (3, 3, 3), bias=False)
    return found | (conv(f"{name}.conv3.conv", a, b, (1, 1, 1), bias=False) if a != b else {})


def temporal(features: int, widths: tuple[int, int, int, int], count: int, z: int) -> Shapes:
    """facts 3.2 (b) and (d)."""
    w0, w1, w2, w3 = widths
    e, d, cube, one = "temporal_vae.encoder", "temporal_vae.decoder", (3, 3, 3), (1, 1, 1)
    found = conv(f"{e}.conv_in.conv", features, w0, cube, bias=False)
    for i, (a, b) in enumerate([(w0, w0), (w0, w1), (w1, w2), (w2, w3)]):
        found |= res_blocks(f"{e}.block_res_blocks.{i}", a, b, count)
        found |= conv(f"{e}.conv_blocks.{i}.conv", b, b, cube) if i < 3 else {}
    found |= res_blocks(f"{e}.res_blocks", w3, w3, count) | norm(f"{e}.norm1", w3) | conv(f"{e}.conv2.conv", w3, 2 * z, one)
    found |= conv("temporal_vae.quant_conv.conv", 2 * z, 2 * z, one) | conv("temporal_vae.post_quant_conv.conv", z, z, one)
    found |= conv(f"{d}.conv1.conv", z, w3, cube) | res_blocks(f"{d}.res_blocks", w3, w3, count) | res_block(f"{d}.upsample_block", w3, w3)
    for i, (a, b) in enumerate([(w1, w0), (w2, w1), (w3, w2), (w3, w3)]):
        found |= res_blocks(f"{d}.block_res_blocks.{i}", a, b, count)
    found |= conv(f"{d}.conv_blocks.1.conv", w2, 2 * w2, cube) | conv(f"{d}.conv_blocks.2.conv", w3, 2 * w3, cube)
    return found | norm(f"{d}.norm1", w0) | conv(f"{d}.conv_out.conv", w0, features, cube)


def released(c: VAEModel) -> Shapes:
    """Names and shapes of the published vae.pt, written from facts 3.2 for any width."""
    widths = [c.base_channels * m for m in c.channel_multipliers]
    down = list(zip([widths[0], *widths], widths, strict=False))
    up = list(zip([widths[3], *widths[::-1]], widths[::-1], strict=False))
    found = trunk("encoder", down, c.blocks_per_level, "down", (3, 8, widths[3]))
    found |= trunk("decoder", up, c.blocks_per_level + 1, "up", (4, 3, widths[0]))
    found |= temporal(widths[3], c.temporal_channels, c.temporal_blocks, c.latent_channels)
    column = (1, c.latent_channels, 1, 1, 1)
    return found | {"scale": column, "shift": column, "logvar": ()}


def test_appendix_b1_the_vae_has_411_752_900_parameters():
    assert count_parameters(VAEModel()) == 411_752_900
    shapes = released(VAEModel())
    assert sum(math.prod(s) for name, s in shapes.items() if name not in ("scale", "shift")) == 411_752_900


def test_appendix_b2_the_vae_loads_the_released_names_and_shapes_strictly():
    with torch.device("meta"):
        net = VideoVAE(VAEModel())
        state = {name: torch.empty(shape) for name, shape in released(VAEModel()).items()}
    assert {name: tuple(t.shape) for name, t in net.state_dict().items()} == released(VAEModel())
    net.load_state_dict(state, strict=True, assign=True)


@pytest.mark.parametrize("wrap", [False, True])
def test_appendix_b2_the_vae_takes_every_tensor_of_a_released_file(tmp_path, wrap):
    state = {name: torch.randn(shape).bfloat16() for name, shape in released(SMALL).items()}
    torch.save({"state_dict": state} if wrap else state, tmp_path / "vae.pt")
    loaded = load_release(tmp_path / "vae.pt", SMALL).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name].float()) for name in state)


def test_a_net_of_ours_goes_to_the_released_format_and_back(tmp_path):
    net = VideoVAE(SMALL).eval()
    save_release(net, tmp_path / "new" / "vae.pt")
    again = load_release(tmp_path / "new" / "vae.pt", SMALL)
    assert {n: tuple(t.shape) for n, t in torch.load(tmp_path / "new" / "vae.pt").items()} == released(SMALL)
    video = torch.rand(1, 3, 9, 16, 16)
    assert torch.equal(net.encode(video).mean, again.encode(video).mean)


def test_the_buffers_of_the_release_normalise_nothing_here():
    """T5: a LatentNorm is the one owner; a loaded release must not be normalised a second time."""
    net = VideoVAE(SMALL).eval()
    video = torch.rand(1, 3, 9, 16, 16)
    latents, again = net.encode(video).mean, net.decode(torch.ones(1, 24, 1, 2, 2))
    net.shift += torch.tensor(RELEASED_SHIFT).view(1, -1, 1, 1, 1)
    net.scale *= torch.tensor(RELEASED_SCALE).view(1, -1, 1, 1, 1)
    assert torch.equal(net.encode(video).mean, latents)
    assert torch.equal(net.decode(torch.ones(1, 24, 1, 2, 2)), again)


def test_the_released_constants_are_bf16_means_and_positive_spreads():
    shift = torch.tensor(RELEASED_SHIFT, dtype=torch.float64)
    assert len(RELEASED_SHIFT) == len(RELEASED_SCALE) == 24
    assert torch.equal(shift.bfloat16().double(), shift)
    assert (RELEASED_SHIFT[9], RELEASED_SCALE[9], RELEASED_SCALE[4]) == (0.3046875, 2.8875, 3.3516)
    assert min(RELEASED_SCALE) == 0.6523


def message(tmp_path, content: object, config: VAEModel = SMALL) -> str:
    path = tmp_path / "vae.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError) as error:
        load_release(path, config)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_file_that_is_no_checkpoint_is_named_in_one_line(tmp_path):
    torch.save({name: torch.zeros(shape) for name, shape in released(SMALL).items()}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"not a checkpoint at all"):
        assert "truncated or no checkpoint" in message(tmp_path, content)
    assert "truncated or no checkpoint" in message(tmp_path, {"model": VideoVAE(SMALL)})
    for content in ([torch.zeros(1)], {"epoch": 3}, torch.zeros(2)):
        assert "holds no state dict" in message(tmp_path, content)
    with pytest.raises(UserError, match=r"nowhere\.pt is missing"):
        load_release(tmp_path / "nowhere.pt")


def test_a_file_of_another_size_names_three_tensors_with_both_shapes(tmp_path):
    state = {name: torch.zeros(shape) for name, shape in released(SMALL).items()}
    text = message(tmp_path, state, SMALL.model_copy(update={"latent_channels": 16}))
    assert "9 of 332 tensors differ" in text
    assert "scale is [1, 24, 1, 1, 1], expected [1, 16, 1, 1, 1]; shift is" in text
    assert text.count("expected") == 3


def test_a_missing_and_an_unknown_name_are_both_reported(tmp_path):
    state = {name: torch.zeros(shape) for name, shape in released(SMALL).items()}
    del state["temporal_vae.quant_conv.conv.weight"]
    state["spatial_vae.module.quant_conv.weight"] = torch.zeros(8, 8, 1, 1)
    text = message(tmp_path, state)
    assert "spatial_vae.module.quant_conv.weight is unknown; temporal_vae.quant_conv.conv.weight is missing" in text
    assert text.endswith("missing")
