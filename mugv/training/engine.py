"""The DiT under megatron: data-parallel wrapper, optimizer, one optimizer step over micro-batches, distributed checkpoints.

It knows nothing of objectives: a step is given micro-batches and a function `loss(model, micro_batch) -> (loss, metrics)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from mugv.dit.config import DiTConfig, make_config
from mugv.dit.init import initialise
from mugv.dit.model import MugDiT
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Optimizer, Parallel
from mugv.training import process_groups
from mugv.training.model_io import SHARDING, save_sharded

LossFunction = Callable[[MugDiT, Any], tuple[Tensor, dict[str, Tensor]]]


def build_model(model: DiTModel, text_width: int, width_divisor: int, layout: Parallel, seed: int) -> MugDiT:
    """A freshly initialised DiT for this rank. Process groups must exist or can be made for one process."""
    process_groups.initialise(layout)
    config = make_config(
        model,
        text_width,
        width_divisor,
        bf16=layout.precision == "bf16",
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
        sequence_parallel=layout.sequence_parallel,
        recompute_granularity="full" if layout.recompute == "full" else None,
        recompute_method="uniform" if layout.recompute == "full" else None,
        recompute_num_layers=1 if layout.recompute == "full" else None,
    )
    dit = MugDiT(config)
    initialise(dit, seed)
    return dit.to("cuda" if torch.cuda.is_available() else "cpu")


def frozen_copy(model: MugDiT) -> MugDiT:
    """An equal network without gradients (process groups cannot be deep-copied)."""
    copy = MugDiT(model.config).to(next(model.parameters()).device).requires_grad_(False)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


class Engine:
    """A DiT with its optimizer; `step` does one update."""

    def __init__(self, model: MugDiT, settings: Optimizer, layout: Parallel) -> None:
        self.settings = settings
        self.model = model
        self.config: DiTConfig = model.config
        self.ddp = DistributedDataParallel(
            self.config,
            DistributedDataParallelConfig(use_distributed_optimizer=layout.distributed_optimizer, overlap_grad_reduce=False),
            model,
        )
        self.optimizer = get_megatron_optimizer(self._optimizer_config(layout), [self.ddp])
        self.config.grad_scale_func = self.optimizer.scale_loss
        self.config.finalize_model_grads_func = finalize_model_grads
        self.ddp.broadcast_params()
        self.forward_backward = get_forward_backward_func()

    def _optimizer_config(self, layout: Parallel) -> OptimizerConfig:
        s = self.settings
        return OptimizerConfig(
            optimizer="adam",
            lr=s.learning_rate,
            weight_decay=s.weight_decay,
            adam_beta1=s.beta1,
            adam_beta2=s.beta2,
            adam_eps=s.epsilon,
            clip_grad=s.clip_gradient,
            bf16=layout.precision == "bf16",
            params_dtype=self.config.params_dtype,
            use_distributed_optimizer=layout.distributed_optimizer,
        )

    def step(self, micro_batches: Sequence[Any], loss_function: LossFunction, learning_rate: float) -> dict[str, float]:
        """One optimizer update over the micro-batches, whose losses are *summed* (the caller weights them).

        Returns the summed metrics of all micro-batches, averaged over data-parallel ranks, and the gradient norm.
        """
        self.ddp.train()
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        count = len(micro_batches)

        def forward_step(iterator: Any, model: Any) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]]:
            loss, metrics = loss_function(model, next(iterator))
            values = {"loss": loss.detach().clone(), **metrics}
            return loss, lambda output: (output * count, values)

        reports = self.forward_backward(
            forward_step_func=forward_step,
            data_iterator=iter(micro_batches),
            model=[self.ddp],
            num_microbatches=count,
            seq_length=1,
            micro_batch_size=1,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        _, gradient_norm, _ = self.optimizer.step()
        metrics = _reduce(reports)
        return {**metrics, "gradient_norm": float(gradient_norm), "learning_rate": learning_rate}

    def sharded_state(self, is_loading: bool) -> dict[str, Any]:
        model = {"model": self.model.sharded_state_dict()}
        return {**model, "optimizer": self.optimizer.sharded_state_dict(model["model"], is_loading=is_loading, metadata=SHARDING)}

    def save(self, folder: Path) -> None:
        save_sharded(self.sharded_state(is_loading=False), folder / "state")

    def load(self, folder: Path) -> None:
        state = dist_checkpointing.load(self.sharded_state(is_loading=True), str(folder / "state"))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def _reduce(reports: list[dict[str, Tensor]]) -> dict[str, float]:
    names = sorted({name for report in reports for name in report})
    totals = torch.stack([sum((r[n].float() for r in reports if n in r), torch.zeros(())) for n in names])
    if torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(totals)
        totals /= torch.distributed.get_world_size()
    return {name: float(value) for name, value in zip(names, totals, strict=True)}
