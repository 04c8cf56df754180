"""RoPE written plainly, for comparison with mugv.dit.fused."""

import torch


def rotate(x, table):
    """Turn adjacent pairs of the last axis. x [S, B, N, head_dim] of any float type, table [2, S, K]; same shape and type out."""
    cos, sin = table[0][:, None, None], table[1][:, None, None]
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).type_as(x)
