"""The published network, written down from facts 4.3 and 4.4 for a state dict of the release's names: slow, one clip, plain torch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def scalar(state: dict[str, Tensor], name: str, value: float) -> Tensor:
    angle = value * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    wave = torch.cat([angle.cos(), angle.sin()])
    return linear(state, f"{name}.mlp.2", F.silu(linear(state, f"{name}.mlp.0", wave)))


def turns(frames: int, rows: int, columns: int, head: int) -> Tensor:
    """Complex rotation of each token and channel pair, [N + 2, head / 2]."""
    places = [(0, 0, 0)]
    places += [(y, x, t + 1) for t in range(frames) for y in range(rows) for x in range(columns)]
    places.append((rows - 1, columns - 1, frames + 1))
    frequency = 10000.0 ** (-6 * torch.arange(head // 6) / head)
    angle = torch.tensor(places)[:, :, None] * frequency
    return torch.polar(torch.ones(()), angle.flatten(1))


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn[:, None]).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    score = torch.einsum("ind,jnd->nij", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("nij,jnd->ind", score.softmax(-1), v).flatten(1)


def block(state: dict[str, Tensor], i: int, x: Tensor, text: Tensor, condition: Tensor, turn: Tensor, heads: int) -> Tensor:
    """condition [tokens, 6, D]: the modulation of each token before the block's own table."""
    b = f"blocks.{i}"
    shift1, scale1, gate1, shift2, scale2, gate2 = (condition + state[f"{b}.scale_shift_table"]).unbind(1)

    def rms(name: str, h: Tensor) -> Tensor:
        return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6) * state[f"{b}.{name}.weight"]

    q, k, v = linear(state, f"{b}.attn.qkv", norm(x) * (1 + scale1) + shift1).unflatten(-1, (3, heads, -1)).unbind(1)
    q, k = rotate(rms("attn.q_norm", q), turn), rotate(rms("attn.k_norm", k), turn)
    x = x + gate1 * linear(state, f"{b}.attn.proj", attend(q, k, v))
    h = norm(x) * state[f"{b}.cross_attn_norm.weight"] + state[f"{b}.cross_attn_norm.bias"]
    q = linear(state, f"{b}.cross_attn.q_linear", h).unflatten(-1, (heads, -1))
    k, v = linear(state, f"{b}.cross_attn.kv_linear", text).unflatten(-1, (2, heads, -1)).unbind(1)
    x = x + linear(state, f"{b}.cross_attn.proj", attend(rms("cross_attn.q_norm", q), rms("cross_attn.k_norm", k), v))
    h = linear(state, f"{b}.mlp.fc1", norm(x) * (1 + scale2) + shift2)
    return x + gate2 * linear(state, f"{b}.mlp.fc2", F.gelu(h, approximate="tanh"))


def velocity(state: dict[str, Tensor], heads: int, latent: Tensor, t: float, text: Tensor, fps: float, noised: Tensor) -> Tensor:
    """latent [C, T, H, W], text [L, text width], noised bool [T] -> [C, T, H, W]."""
    c, frames, height, width = latent.shape
    p = state["x_embedder.proj.weight"].shape[-1]
    rows, columns = height // p, width // p
    body = F.conv3d(latent[None], state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=(1, p, p))[0].flatten(1).T
    x = torch.cat([state["start_token"][None], body, state["end_token"][None]])
    edge = torch.zeros(1, dtype=torch.bool)
    mask = torch.cat([edge, noised.repeat_interleave(rows * columns), edge])[:, None]
    own, zero = (scalar(state, "t_embedder", s) + scalar(state, "fps_embedder", fps) for s in (t, 0.0))
    six = [linear(state, "t_block.1", F.silu(e)).unflatten(0, (6, -1)) for e in (own, zero)]
    condition = torch.where(mask[..., None], six[0], six[1])
    y = linear(state, "y_embedder.y_proj.fc2", F.gelu(linear(state, "y_embedder.y_proj.fc1", norm(text)), approximate="tanh"))
    turn = turns(frames, rows, columns, len(state["blocks.0.attn.q_norm.weight"]))
    for i in range(len({name.split(".")[1] for name in state if name.startswith("blocks.")})):
        x = block(state, i, x, norm(y), condition, turn, heads)
    shift, scale = (torch.where(mask, own, zero) + row for row in state["final_layer.scale_shift_table"])
    out = linear(state, "final_layer.linear", norm(x) * (1 + scale) + shift)[1:-1]
    out = out.reshape(frames, rows, columns, p, p, -1).permute(5, 0, 1, 3, 2, 4)
    return out.reshape(-1, frames, height, width)[:c]
