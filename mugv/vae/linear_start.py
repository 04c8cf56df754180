"""A start for the temporal net: the best linear autoencoder (PCA) of the trunk's features, written into its main path.

From random weights the temporal net needs thousands of steps to get as far as 24 principal components a position, which are
known in closed form. The residual branches are silent at the start, so what remains is linear but for the GroupNorm + SiLU
in front of each output conv; these pass a signal x as silu(x) - silu(-x) = x, with constant channels that hold the norm's
divisor nearly still. The decoder's first doubling repeats a latent, and only the zero padding tells the two halves of a
window of one latent apart, so this start is for windows of one latent.
Legend: M samples (positions of windows), C feature channels, Z latent channels, W channels of a layer, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mugv.errors import UserError
from mugv.vae.model import CHUNK, START_LOGVAR
from mugv.vae.temporal import Conv3d, DepthToTime, ResBlock, TemporalDecoder, TemporalEncoder, TemporalVAE

CONSTANT = 8.0
"""Value of the constant channels, in standard deviations of the signals beside them."""


@torch.no_grad()
def start_linear(net: TemporalVAE, features: Tensor) -> float:
    """Write the PCA of `features` [M, 8, C] into the net; returns the share of their variance that it loses."""
    samples = features.double()
    mean = samples.mean(dim=(0, 1))
    samples = samples - mean
    codes, loss = _start_encoder(net, samples, mean)
    basis = torch.linalg.lstsq(codes, samples.flatten(1)).solution.T
    _start_decoder(net, basis.view(CHUNK, -1, codes.shape[1]), mean)
    return loss


def _start_encoder(net: TemporalVAE, samples: Tensor, mean: Tensor) -> tuple[Tensor, float]:
    """Pairs of frames, pairs of pairs and halves are merged by PCA, each into as many components as the layer has channels.
    Returns codes [M, Z] of unit mean variance and the share of variance lost."""
    encoder, latents = net.encoder, net.quant_conv.conv.out_channels // 2
    first = _principal(samples.flatten(0, 1), encoder.conv_in.conv.out_channels)
    _write(encoder.conv_in, first)
    x, offset = samples @ first.T, first @ mean
    for level, conv in enumerate(encoder.conv_blocks):
        assert isinstance(conv, Conv3d)
        merged = x.reshape(len(x), x.shape[1] // 2, -1)
        last = level == len(encoder.conv_blocks) - 1
        basis = _principal(
            merged.flatten(0, 1), min(latents if last else conv.conv.out_channels, _width(encoder.block_res_blocks[level + 1]))
        )
        x = merged @ basis.T
        if last:
            mix = _mixing(len(basis)) / x.flatten(0, 1).std(dim=0).square().mean().sqrt()
            x, basis = x @ mix.T, mix @ basis
        half = basis.shape[1] // 2
        bias = -(basis @ torch.cat([offset, offset])) if level == 0 else torch.zeros(len(basis), dtype=basis.dtype)
        _finish_level(encoder, level, last, basis, half, bias)
    codes = x.flatten(1)
    _read_layout(encoder.norm1, encoder.conv2, torch.eye(2 * latents, latents, dtype=torch.float64))
    _write(net.quant_conv, torch.eye(latents, dtype=torch.float64))
    assert net.quant_conv.conv.bias is not None
    net.quant_conv.conv.bias[latents:] = START_LOGVAR
    fitted = codes @ torch.linalg.lstsq(codes, samples.flatten(1)).solution
    return codes, float((fitted - samples.flatten(1)).square().sum() / samples.square().sum())


def _mixing(size: int) -> Tensor:
    """A fixed rotation [size, size]: every channel carries the same variance, yet the code keeps its few strong and many weak
    directions. Whitened components would give the generator noise-like detail that weighs as much as the picture's layout."""
    generator = torch.Generator().manual_seed(size)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def _finish_level(encoder: TemporalEncoder, level: int, last: bool, basis: Tensor, half: int, bias: Tensor) -> None:
    """Write a merging conv and the shortcut behind it; the last one also lays out signals and constants for the norm."""
    conv, blocks = encoder.conv_blocks[level], encoder.block_res_blocks[level + 1]
    assert isinstance(conv, Conv3d)
    shortcut = _shortcut(blocks)
    if last:
        layout = _layout(encoder.norm1, len(basis))
        basis, bias = _with_constant(basis), torch.cat([bias, torch.ones(1, dtype=bias.dtype)])
        if shortcut is None:
            basis, bias = layout @ basis, layout @ bias
        else:
            _write(shortcut, layout)
    elif shortcut is not None:
        _write_identity(shortcut)
    _write(conv, basis[:, :half], 0, bias)
    _write(conv, basis[:, half:], 1, bias, clear=False)


def _start_decoder(net: TemporalVAE, basis: Tensor, mean: Tensor) -> None:
    """`basis` [8, C, Z]: what one unit of each latent adds to each frame's features."""
    decoder, latents = net.decoder, basis.shape[2]
    quarter, half = decoder.conv_blocks[2], decoder.conv_blocks[1]
    assert isinstance(quarter, DepthToTime)
    assert isinstance(half, DepthToTime)
    _write(net.post_quant_conv, torch.eye(latents, dtype=torch.float64))
    _write(decoder.conv1, torch.eye(latents, dtype=torch.float64))
    pairs = basis.reshape(4, -1, latents)
    pair_basis = _principal(pairs.transpose(1, 2).flatten(0, 1), _width(decoder.block_res_blocks[2]))
    codes = torch.einsum("pc,qcz->qpz", pair_basis, pairs)
    for tap, first in ((2, 0), (0, 2)):
        _write_depth_to_time(quarter, codes[first : first + 2], tap, clear=tap == 2)
    shortcut = _shortcut(decoder.block_res_blocks[2])
    if shortcut is not None:
        _write_identity(shortcut)
    room = min(_pairs(decoder.norm1), half.conv.in_channels - 1, _width(decoder.block_res_blocks[1]) - 1)
    frames = pair_basis.T.reshape(2, -1, len(pair_basis))
    frame_basis = _principal(basis.transpose(1, 2).flatten(0, 1), room)
    seen = torch.einsum("fc,tcz->tfz", frame_basis, basis)
    spread = seen.square().sum(dim=2).mean(dim=0).sqrt().clamp_min(1e-6)
    _lay_out_frames(decoder, torch.einsum("fc,tcp->tfp", frame_basis / spread[:, None], frames))
    _read_layout(decoder.norm1, decoder.conv_out, frame_basis.T * spread)
    assert decoder.conv_out.conv.bias is not None
    decoder.conv_out.conv.bias.copy_(mean)


def _lay_out_frames(decoder: TemporalDecoder, codes: Tensor) -> None:
    """Codes [2, F, W] of both frames of a pair into the last doubling, laid out at the last shortcut before the norm."""
    half = decoder.conv_blocks[1]
    assert isinstance(half, DepthToTime)
    layout = _layout(decoder.norm1, codes.shape[1])
    shortcuts = [s for s in map(_shortcut, (decoder.block_res_blocks[1], decoder.block_res_blocks[0])) if s is not None]
    for shortcut in shortcuts[:-1]:
        _write_identity(shortcut)
    constant = torch.zeros(codes.shape[1] + 1, dtype=torch.float64)
    constant[-1] = 1
    signals = torch.stack([_with_constant(code) for code in codes])
    if shortcuts:
        _write(shortcuts[-1], layout)
    else:
        signals, constant = layout @ signals, layout @ constant
    _write_depth_to_time(half, signals, 1, bias=constant)


def _layout(norm: nn.GroupNorm, signals: int) -> Tensor:
    """[W, signals + 1]: each signal as +x and -x in one group of the norm, and +-CONSTANT from the last input elsewhere."""
    size = norm.num_channels // norm.num_groups
    if signals > _pairs(norm):
        raise UserError(
            f"vae.train.linear_start: {norm.num_channels} temporal channels in {norm.num_groups} groups hold {_pairs(norm)} signals, "
            f"{signals} are needed"
        )
    layout = torch.zeros(norm.num_channels, signals + 1, dtype=torch.float64)
    for signal in range(signals):
        group, place = signal % norm.num_groups, signal // norm.num_groups
        row = group * size + 2 * place
        layout[row, signal], layout[row + 1, signal] = 1.0, -1.0
    for row in range(norm.num_channels):
        if not layout[row].any():
            layout[row, signals] = CONSTANT if (row % size) % 2 == 0 else -CONSTANT
    return layout


def _pairs(norm: nn.GroupNorm) -> int:
    """How many signals a norm can pass: pairs of channels, one pair of each group kept for constants."""
    return norm.num_groups * (norm.num_channels // norm.num_groups // 2 - 1)


def _read_layout(norm: nn.GroupNorm, conv: Conv3d, readout: Tensor) -> None:
    """The conv behind norm and SiLU reads each signal as silu(x) - silu(-x), times the norm's usual divisor."""
    signals = readout.shape[1]
    layout = _layout(norm, signals)
    power = layout[:, :signals].square().sum(dim=1) + layout[:, signals].square()
    divisor = power.view(norm.num_groups, -1).mean(dim=1).sqrt().repeat_interleave(norm.num_channels // norm.num_groups)
    _write(conv, readout @ (layout[:, :signals] * divisor[:, None]).T)


def _with_constant(matrix: Tensor) -> Tensor:
    """One more row, of zeros: the channel that carries the constant, which comes from the bias."""
    return torch.cat([matrix, matrix.new_zeros(1, matrix.shape[1])])


def _principal(rows: Tensor, count: int) -> Tensor:
    """The `count` leading principal directions [count, D] of rows [M, D] about zero, fewer when D is smaller."""
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    return vectors.flip(1).T[:count].contiguous()


def _width(blocks: nn.Module) -> int:
    first = next(blocks.children())
    assert isinstance(first, ResBlock)
    return first.conv2.conv.out_channels


def _shortcut(blocks: nn.Module) -> Conv3d | None:
    """The only conv on the main path of a row of ResBlocks: there where its width changes."""
    first = next(blocks.children())
    assert isinstance(first, ResBlock)
    return first.conv3


def _write_identity(conv: Conv3d) -> None:
    _write(conv, torch.eye(conv.conv.out_channels, conv.conv.in_channels, dtype=torch.float64))


def _write(layer: Conv3d, matrix: Tensor, tap: int | None = None, bias: Tensor | None = None, clear: bool = True) -> None:
    """Put a matrix [out, in] at a time tap (the middle one) and the middle pixel of a conv's kernel, zeros elsewhere."""
    conv = layer.conv
    kernel = conv.kernel_size[0]
    time, middle = kernel // 2 if tap is None else tap, kernel // 2
    if clear:
        conv.weight.zero_()
    conv.weight[: matrix.shape[0], : matrix.shape[1], time, middle, middle] = matrix.to(conv.weight.dtype)
    if conv.bias is not None:
        conv.bias.zero_()
        if bias is not None:
            conv.bias[: len(bias)] = bias.to(conv.bias.dtype)


def _write_depth_to_time(layer: DepthToTime, matrices: Tensor, tap: int, bias: Tensor | None = None, clear: bool = True) -> None:
    """Matrices [2, out, in], one for each of the two times that the layer makes of one."""
    conv = layer.conv
    if clear:
        conv.weight.zero_()
    assert conv.bias is not None
    conv.bias.zero_()
    rows = 2 * matrices.shape[1]
    conv.weight[:rows, : matrices.shape[2], tap, 1, 1] = matrices.transpose(0, 1).reshape(rows, -1).to(conv.weight.dtype)
    if bias is not None:
        conv.bias[:rows] = bias.repeat_interleave(2).to(conv.bias.dtype)
