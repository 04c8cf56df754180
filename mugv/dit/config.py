"""The DiT's configuration as megatron-core wants it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.transformer import TransformerConfig

from mugv.recipe.models import DiTModel


@dataclass
class DiTConfig(TransformerConfig):
    """TransformerConfig with what only a video DiT has. Widths are in channels."""

    latent_channels: int = 24
    patch: int = 2
    text_width: int = 4096
    learned_sigma: bool = True
    gate_init: str = "random"
    has_cond_embedder: bool = True
    """Read by megatron: conditioning embedders are replicated on every pipeline stage and their gradients reduced."""
    frequency_width: int = 256
    """Width of the sinusoid of timestep and fps."""

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def out_channels(self) -> int:
        return self.latent_channels * (2 if self.learned_sigma else 1)


def make_config(model: DiTModel, text_width: int, width_divisor: int = 1, bf16: bool = False, **layout: object) -> DiTConfig:
    """The megatron configuration of `model`, its width and heads divided by `width_divisor` (stages before an expansion).

    `layout` passes megatron's parallel settings through (tensor_model_parallel_size, sequence_parallel, ...).
    """
    return DiTConfig(
        num_layers=model.layers,
        hidden_size=model.hidden // width_divisor,
        num_attention_heads=model.heads // width_divisor,
        ffn_hidden_size=model.mlp_ratio * model.hidden // width_divisor,
        latent_channels=model.latent_channels,
        patch=model.patch,
        text_width=text_width,
        learned_sigma=model.learned_sigma,
        gate_init=model.gate_init,
        qk_layernorm=True,
        layernorm_epsilon=1e-6,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        bias_dropout_fusion=False,
        use_cpu_initialization=True,
        perform_initialization=False,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        pipeline_dtype=torch.bfloat16 if bf16 else torch.float32,
        **layout,  # type: ignore[arg-type]
    )
