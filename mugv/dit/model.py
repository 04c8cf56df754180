"""MUG-DiT (facts 4; paper 3.2): latents, timestep, text -> velocity. One model for T2V, I2V, continuation and images.

A `MugDiT` is the whole network, or the part of it that one pipeline rank holds. The first part embeds; the message to the next one
is the tokens with the conditioning as extra rows below them, so nothing is replicated over the pipeline:

    rows of a message: S tokens | 6 K modulation vectors | K vectors of the final layer | L text tokens

Legend: n clips, B clips side by side (n batched, 1 packed), C latent channels, T latent frames, H W latent rows and columns,
S local tokens, K conditions of a clip row (2 batched, 2 n packed), D width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.enums import ModelType
from megatron.core.tensor_parallel import checkpoint, gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from mugv.dit import attention
from mugv.dit.config import DiTConfig
from mugv.dit.embeddings import ScalarEmbedder, TextProjection, patchify, unpatchify
from mugv.dit.fused import modulate
from mugv.dit.layers import Conditioning, DiTLayer
from mugv.dit.sequence import Span, TokenLayout

Clips = Tensor | Sequence[Tensor]
"""[n, C, T, H, W], or packed: [C, T, H, W] of each clip, any sizes."""


class FinalLayer(nn.Module):
    """Modulated LayerNorm and Linear to p * p * channels; its shift and scale come from t_emb, not from t_block."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))
        self.linear = nn.Linear(width, outputs)

    def forward(self, x_SBD: Tensor, embedding_BKD: Tensor, kind_SB: Tensor) -> Tensor:
        shift, scale = (embedding_BKD + row for row in self.scale_shift_table)
        return self.linear(modulate(x_SBD, shift, scale, kind_SB))


class MugDiT(MegatronModule):
    """Blocks `layers` of the network (None: all), with the embedders if they start it and the head if they end it.

    Weights are set by mugv.dit.init, not here. Parameter names carry the block's number in the whole network.
    """

    model_type = ModelType.encoder_or_decoder
    share_embeddings_and_output_weights = False

    def __init__(self, config: DiTConfig, layers: range | None = None) -> None:
        super().__init__(config)
        self.config: DiTConfig = config
        width = config.hidden_size
        self.range = layers if layers is not None else range(config.num_layers)
        self.pre_process, self.post_process = self.range.start == 0, self.range.stop == config.num_layers
        if self.pre_process:
            self.patch_embedder = nn.Linear(config.latent_channels * config.patch**2, width)
            self.timestep_embedder = ScalarEmbedder(config.frequency_width, width)
            self.fps_embedder = ScalarEmbedder(config.frequency_width, width)
            self.timestep_block = nn.Linear(width, 6 * width)
            self.context_embedder = TextProjection(config.text_width, width)
            self.start_token = nn.Parameter(torch.zeros(width))
            self.end_token = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleDict({str(i): DiTLayer(config) for i in self.range})
        if self.post_process:
            self.final_layer = FinalLayer(width, config.out_channels * config.patch**2)
        self._message: Tensor | None = None
        _mark_sequence_parallel(self)

    def set_input_tensor(self, message: Tensor | list[Tensor] | None) -> None:
        """megatron's pipeline hands over what the part before sent."""
        self._message = message[0] if isinstance(message, list) else message

    def embed_text(self, text_BLC: Tensor) -> Tensor:
        """The text projection alone, [n, L, text width] -> [n, L, D], for samplers that call the network many times."""
        return self.context_embedder(text_BLC)

    def forward(
        self,
        latents: Clips,
        timestep_n: Tensor,
        text_nLC: Tensor,
        text_mask_nL: Tensor,
        fps_n: Tensor,
        noised: Clips,
        projected: bool = False,
    ) -> Tensor | list[Tensor]:
        """Velocity (x0 - noise) in fp32, [n, C, T, H, W] or a list of [C, T, H, W]; a part that is not the last returns its message.

        timestep in [0, 1000], fp32; text padded, with mask True where a token exists; noised [n, T] (packed: [T] of each clip)
        False for given frames; `projected`: the text is embed_text's result.
        """
        packed = not isinstance(latents, Tensor) or len(latents) == 1
        layout = self._layout(latents)
        lengths = tuple(text_mask_nL.sum(1).tolist()) if packed else None
        kind = self._kinds(layout, noised, packed)
        if self.pre_process:
            x = self._tokens(latents, layout)
            vectors, final = self._vectors(timestep_n, fps_n, packed)
            text = self._text(text_nLC, lengths, projected)
        else:
            x, vectors, final, text = self._unpack(kind, len(timestep_n))
        rows = sum(lengths) if lengths else text.shape[0]
        condition = Conditioning(
            vectors_BK6D=vectors,
            text_LBD=text,
            kind_SB=kind,
            layout=layout,
            text_spans=layout.text_spans(lengths) if lengths else (Span(0, layout.chunk[1] - layout.chunk[0], 0, rows),),
            text_mask_BL=None if packed else text_mask_nL,
            back_end=attention.choose(self.config.attention, x.device.type, packed, x.dtype),
        )
        for layer in self.layers.values():
            x = self._run(layer, x, condition)
        if not self.post_process:
            return _pack(x, vectors, final, text)
        out = self._gather(self.final_layer(x, final, kind))
        return self._clips(out, latents, layout)

    def _layout(self, latents: Clips) -> TokenLayout:
        p, config = self.config.patch, self.config
        clips = latents[:1] if isinstance(latents, Tensor) else latents
        grids = tuple((c.shape[-3], c.shape[-2] // p, c.shape[-1] // p) for c in clips)
        context = (parallel_state.get_context_parallel_rank(), config.context_parallel_size) if config.context_parallel_size > 1 else (0, 1)
        split = (parallel_state.get_tensor_model_parallel_rank(), config.tensor_model_parallel_size) if config.sequence_parallel else (0, 1)
        return TokenLayout(grids, context, split)

    def _tokens(self, latents: Clips, layout: TokenLayout) -> Tensor:
        """Embedded local tokens [S, B, D]; empty pieces keep every parameter in the graph of every rank."""
        weight = self.patch_embedder.weight
        clips = [latents] if isinstance(latents, Tensor) else [c[None] for c in latents]
        parts = []
        for i, clip in enumerate(clips):
            first, body, last = layout.pieces(i)
            b = clip.shape[0]
            patches = patchify(clip.to(weight.dtype), self.config.patch)[body]
            parts += [self.start_token.expand(first.stop, b, -1), self.patch_embedder(patches), self.end_token.expand(last.stop, b, -1)]
        return torch.cat([*parts, parts[0].new_zeros(layout.local_pad, *parts[0].shape[1:])])

    def _kinds(self, layout: TokenLayout, noised: Clips, packed: bool) -> Tensor:
        """Index of each local token's condition, int64 [S, B]: 2 i for given tokens of packed clip i, one more for noised ones."""
        masks = [noised] if isinstance(noised, Tensor) else [m[None] for m in noised]
        parts = []
        for i, (mask_BT, (_, rows, columns)) in enumerate(zip(masks, layout.grids, strict=True)):
            body = mask_BT.repeat_interleave(rows * columns, 1).T.long()
            parts.append(F.pad(body, (0, 0, 1, 1)) + (2 * i if packed else 0))
        whole = F.pad(torch.cat(parts), (0, 0, 0, layout.padded - layout.length))
        return whole[layout.local[0] : layout.local[1]]

    def _vectors(self, timestep_n: Tensor, fps_n: Tensor, packed: bool) -> tuple[Tensor, Tensor]:
        """Modulation [B, K, 6, D] and the final layer's embedding [B, K, D]; condition 0 is timestep 0, condition 1 the clip's own."""
        fps = self.fps_embedder(fps_n)
        both = torch.stack([self.timestep_embedder(torch.zeros_like(timestep_n)) + fps, self.timestep_embedder(timestep_n) + fps], 1)
        final = both.flatten(0, 1)[None] if packed else both
        return self.timestep_block(F.silu(final)).unflatten(-1, (6, -1)), final

    def _text(self, text_nLC: Tensor, lengths: tuple[int, ...] | None, projected: bool) -> Tensor:
        text = text_nLC.to(self.patch_embedder.weight.dtype) if projected else self.embed_text(text_nLC)
        if lengths is None:
            return text.transpose(0, 1)
        return torch.cat([row[:length] for row, length in zip(text, lengths, strict=True)])[:, None]

    def _unpack(self, kind_SB: Tensor, clips: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inverse of _pack. The clips tell how many rows are tokens and conditions; the rest is text."""
        message = self._message
        assert message is not None
        tokens, side_by_side = kind_SB.shape
        conditions = 2 * clips // side_by_side
        x, vectors, final, text = message.split([tokens, 6 * conditions, conditions, len(message) - tokens - 7 * conditions])
        return x, vectors.unflatten(0, (conditions, 6)).permute(2, 0, 1, 3), final.transpose(0, 1), text

    def _gather(self, out_SBO: Tensor) -> Tensor:
        """The head's output of all local parts, whole on every rank; each rank's gradient is its own part's."""
        if self.config.sequence_parallel:
            out_SBO = gather_from_sequence_parallel_region(out_SBO, tensor_parallel_output_grad=False)
        if self.config.context_parallel_size > 1:
            group = parallel_state.get_context_parallel_group()
            out_SBO = gather_from_sequence_parallel_region(out_SBO, tensor_parallel_output_grad=False, group=group)
        return out_SBO

    def _clips(self, out_SBO: Tensor, latents: Clips, layout: TokenLayout) -> Tensor | list[Tensor]:
        config = self.config
        clips = [
            unpatchify(out_SBO[start + 1 : stop - 1], grid, config.patch, config.out_channels)[:, : config.latent_channels].float()
            for (start, stop), grid in zip(layout.bounds, layout.grids, strict=True)
        ]
        return clips[0] if isinstance(latents, Tensor) else [clip[0] for clip in clips]

    def _run(self, layer: nn.Module, x_SBD: Tensor, condition: Conditioning) -> Tensor:
        if self.config.recompute_granularity != "full" or not self.training:
            return layer(x_SBD, condition)

        def forward(x: Tensor, vectors: Tensor, text: Tensor) -> Tensor:
            return layer(x, condition.with_tensors(vectors, text))

        return checkpoint(forward, False, x_SBD, condition.vectors_BK6D, condition.text_LBD)


def _pack(x_SBD: Tensor, vectors_BK6D: Tensor, final_BKD: Tensor, text_LBD: Tensor) -> Tensor:
    return torch.cat([x_SBD, vectors_BK6D.permute(1, 2, 0, 3).flatten(0, 1), final_BKD.transpose(0, 1), text_LBD])


def _mark_sequence_parallel(model: MugDiT) -> None:
    """Replicated parameters whose gradient each tensor rank has for its own tokens alone: megatron sums them (facts 10.3, T14).

    Not the text projection: the text is whole on every rank. q/k norms are summed by name, with or without sequence parallelism.
    """
    if not model.config.sequence_parallel:
        return
    for name, parameter in model.named_parameters():
        whole = name.startswith("context_embedder.") or "q_layernorm" in name or "k_layernorm" in name
        if not whole and not getattr(parameter, "tensor_model_parallel", False):
            parameter.sequence_parallel = True  # type: ignore[attr-defined]
