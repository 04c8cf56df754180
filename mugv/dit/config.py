"""The DiT's configuration as megatron-core wants it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.transformer import TransformerConfig

from mugv.precision import here, resolve
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel


@dataclass
class DiTConfig(TransformerConfig):
    """TransformerConfig with what only a video DiT has. Widths are in channels."""

    latent_channels: int = 24
    patch: int = 2
    text_width: int = 4096
    learned_sigma: bool = True
    gate_init: str = "random"
    attention: str = "auto"
    """Attention back end, see mugv.dit.attention."""
    context_method: str = "auto"
    """How context-parallel ranks exchange: ulysses, gather, or auto (ulysses where the heads divide)."""
    frequency_width: int = 256
    """Width of the sinusoid of timestep and fps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.virtual_pipeline_model_parallel_size and not self.overlap_p2p_comm:
            raise ValueError("interleaved pipelining without overlap_p2p_comm gives wrong gradients in megatron-core 0.16.1; set it")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def model(self) -> DiTModel:
        """The sizes, as a recipe has them."""
        return DiTModel(
            layers=self.num_layers,
            hidden=self.hidden_size,
            heads=self.num_attention_heads,
            latent_channels=self.latent_channels,
            patch=self.patch,
            mlp_ratio=self.ffn_hidden_size // self.hidden_size,
            learned_sigma=self.learned_sigma,
            gate_init=self.gate_init,  # type: ignore[arg-type]
        )

    @property
    def out_channels(self) -> int:
        return self.latent_channels * (2 if self.learned_sigma else 1)


def make_config(model: DiTModel, text_width: int, width_divisor: int, layout: Parallel) -> DiTConfig:
    """The megatron configuration of `model`, its width and heads divided by `width_divisor` (stages before an expansion)."""
    bf16 = resolve(layout.precision, here()) == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    full = layout.recompute == "full"
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
        params_dtype=dtype,
        pipeline_dtype=dtype,
        tensor_model_parallel_size=layout.tensor,
        sequence_parallel=layout.sequence_parallel,
        context_parallel_size=layout.context,
        context_method=layout.context_method,
        attention=layout.attention,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        variable_seq_lengths=layout.pipeline > 1,
        moe_token_dispatcher_type="alltoall",
        overlap_p2p_comm=layout.virtual_pipeline > 1,
        batch_p2p_comm=layout.virtual_pipeline == 1,
        recompute_granularity=None if layout.recompute == "none" else layout.recompute,
        recompute_method="uniform" if full else None,
        recompute_num_layers=1 if full else None,
    )
