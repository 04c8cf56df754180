"""MUG-DiT (facts 4; paper 3.2): latents, timestep, text -> velocity. One model for T2V, I2V, continuation and images.

Legend: B clips, C latent channels, T latent frames, H W latent rows and columns, S tokens + 2, D width, L text tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core.enums import ModelType
from megatron.core.tensor_parallel import checkpoint
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from mugv.dit.config import DiTConfig
from mugv.dit.embeddings import ScalarEmbedder, TextProjection, patchify, unpatchify
from mugv.dit.layers import DiTLayer, Modulation
from mugv.dit.rope import rope_table


class FinalLayer(nn.Module):
    """Modulated LayerNorm and Linear to p * p * channels; its shift and scale come from t_emb, not from t_block."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))
        self.linear = nn.Linear(width, outputs)

    def forward(self, x_SBD: Tensor, noised_BD: Tensor, given_BD: Tensor, mask_SB1: Tensor) -> Tensor:
        embedding = torch.where(mask_SB1, noised_BD[None], given_BD[None])
        shift, scale = self.scale_shift_table[0] + embedding, self.scale_shift_table[1] + embedding
        return self.linear(F.layer_norm(x_SBD, x_SBD.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class MugDiT(MegatronModule):
    """The whole network; weights are set by mugv.dit.init, not here."""

    model_type = ModelType.encoder_or_decoder
    share_embeddings_and_output_weights = False

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.config: DiTConfig = config
        width = config.hidden_size
        self.patch_embedder = nn.Linear(config.latent_channels * config.patch**2, width)
        self.timestep_embedder = ScalarEmbedder(config.frequency_width, width)
        self.fps_embedder = ScalarEmbedder(config.frequency_width, width)
        self.timestep_block = nn.Linear(width, 6 * width)
        self.context_embedder = TextProjection(config.text_width, width)
        self.start_token = nn.Parameter(torch.zeros(width))
        self.end_token = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(DiTLayer(config, i + 1) for i in range(config.num_layers))
        self.final_layer = FinalLayer(width, config.out_channels * config.patch**2)

    def set_input_tensor(self, input_tensor: Tensor | list[Tensor]) -> None:
        """Part of megatron's pipeline interface; this model lives on one stage."""

    def forward(
        self,
        latent_BCTHW: Tensor,
        timestep_B: Tensor,
        text_BLC: Tensor,
        text_mask_BL: Tensor,
        fps_B: Tensor,
        noised_BT: Tensor,
    ) -> Tensor:
        """Velocity (x0 - noise) [B, C, T, H, W] in fp32.

        timestep in [0, 1000], fp32; text before projection with mask True where a token exists; noised_BT False for given frames.
        """
        _, _, t, h, w = latent_BCTHW.shape
        p = self.config.patch
        x = self._tokens(latent_BCTHW)
        mask = self._token_mask(noised_BT, (h // p) * (w // p))
        t_emb, t0_emb, modulation = self._condition(timestep_B, fps_B, mask)
        rope = rope_table(t, h // p, w // p, self.config.head_dim, str(x.device))
        text_LBD = self.context_embedder(text_BLC).transpose(0, 1)
        for layer in self.layers:
            x = self._run(layer, x, modulation, rope, text_LBD, text_mask_BL)
        out = self.final_layer(x[1:-1], t_emb, t0_emb, mask[1:-1])
        return unpatchify(out, (t, h, w), p, self.config.out_channels)[:, : self.config.latent_channels].float()

    def _tokens(self, latent_BCTHW: Tensor) -> Tensor:
        x = self.patch_embedder(patchify(latent_BCTHW.to(self.patch_embedder.weight.dtype), self.config.patch))
        start, end = (token.expand(1, x.shape[1], -1) for token in (self.start_token, self.end_token))
        return torch.cat([start, x, end])

    @staticmethod
    def _token_mask(noised_BT: Tensor, tokens_per_frame: int) -> Tensor:
        """bool [S, B, 1]: True for tokens of noised frames; start and end token are given."""
        body = noised_BT.repeat_interleave(tokens_per_frame, 1).T
        edge = torch.zeros_like(body[:1])
        return torch.cat([edge, body, edge])[..., None]

    def _condition(self, timestep_B: Tensor, fps_B: Tensor, mask_SB1: Tensor) -> tuple[Tensor, Tensor, Modulation]:
        fps = self.fps_embedder(fps_B)
        t_emb = self.timestep_embedder(timestep_B) + fps
        t0_emb = self.timestep_embedder(torch.zeros_like(timestep_B)) + fps
        noised, given = (self.timestep_block(F.silu(e)).unflatten(1, (6, -1)) for e in (t_emb, t0_emb))
        return t_emb, t0_emb, Modulation(noised, given, mask_SB1)

    def _run(self, layer: nn.Module, x: Tensor, modulation: Modulation, rope: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        if self.config.recompute_granularity != "full" or not self.training:
            return layer(x, modulation, rope, text, text_mask)

        def forward(x: Tensor, noised: Tensor, given: Tensor, text: Tensor) -> Tensor:
            return layer(x, Modulation(noised, given, modulation.mask), rope, text, text_mask)

        return checkpoint(forward, False, x, modulation.noised, modulation.given, text)
