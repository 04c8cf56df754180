"""The DiT under megatron, in any parallel layout: data-parallel wrapper, optimizer, one step over micro-batches, checkpoints.

It knows nothing of what is learned: a step is given micro-batches and an objective, whose `forward` runs on every pipeline rank and
whose `loss` runs where the velocity comes out. A rank holds one part of the network, or several under interleaved pipelining.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from mugv.dit.config import DiTConfig, make_config
from mugv.dit.init import initialise
from mugv.dit.model import MugDiT
from mugv.dit.sharding import allocate, as_chunks, load_state, sharded_state
from mugv.errors import UserError
from mugv.guard import Guard, from_all_ranks
from mugv.precision import here
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Optimizer, Parallel
from mugv.training import process_groups
from mugv.training.masters import Masters, all_parameters, lower
from mugv.training.model_io import SHARDING, Save, load_sharded, save_sharded
from mugv.training.muon import muon_optimizer

logger = logging.getLogger(__name__)

BUCKET = 40_000_000
"""Parameters of a gradient bucket when communication overlaps with computation (megatron's default)."""


class Objective(Protocol):
    """What a step minimises. Losses of the micro-batches are *summed*: the objective weights them."""

    def forward(self, model: MugDiT, micro_batch: Any) -> Tensor | list[Tensor]:
        """Call the network, whatever part of it this rank holds."""
        ...

    def loss(self, velocity: Any, micro_batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """(loss, metrics) from the network's velocity. A metric is [sum over clips, clips], for a mean over all clips of the step;
        under CLIPS may stand the ClipLosses that a refused step is traced to."""
        ...


CLIPS = "clips"


class ClipLosses(NamedTuple):
    """What is known of the clips of a micro-batch: names and losses [B]."""

    names: tuple[str, ...]
    losses: Tensor


def total(each: Tensor) -> Tensor:
    """A metric: [sum, number] of the values of some clips, outside of the graph."""
    return torch.stack([each.detach().float().sum(), each.new_tensor(len(each), dtype=torch.float32)])


def build_chunks(
    model: DiTModel, text_width: int, width_divisor: int, layout: Parallel, seed: int, dtype: torch.dtype | None = None
) -> list[MugDiT]:
    """This rank's parts of a freshly initialised DiT, in order. Process groups must exist or can be made for one process.

    dtype: of the weights, by default the layout's; an Engine is given fp32 and rounds for itself.
    """
    chunks = empty_chunks(model, text_width, width_divisor, layout, dtype)
    for chunk in chunks:
        initialise(chunk, seed)
    return chunks


def empty_chunks(model: DiTModel, text_width: int, width_divisor: int, layout: Parallel, dtype: torch.dtype | None = None) -> list[MugDiT]:
    """The same parts with memory where they will run but without values, for weights that are read from a checkpoint."""
    process_groups.initialise(layout)
    config = make_config(model, text_width, width_divisor, layout)
    count = model.layers // (layout.pipeline * layout.virtual_pipeline)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    starts = [(v * layout.pipeline + stage) * count for v in range(layout.virtual_pipeline)]
    with torch.device("meta"):
        chunks = [MugDiT(config, range(start, start + count)) for start in starts]
    for chunk in chunks:
        allocate(chunk, here(), dtype or config.params_dtype)
    return chunks


def build_model(model: DiTModel, text_width: int, width_divisor: int, layout: Parallel, seed: int) -> MugDiT:
    """This rank's part of a freshly initialised DiT where there is one part: the whole network without pipelining."""
    (chunk,) = build_chunks(model, text_width, width_divisor, layout, seed)
    return chunk


class Engine:
    """A DiT with its optimizer; `step` does one update. A network in fp32 is rounded to the layout's precision; its exact weights are
    what the optimizer starts from and what `network` returns."""

    def __init__(self, model: MugDiT | Sequence[MugDiT], settings: Optimizer, layout: Parallel) -> None:
        self.settings, self.layout, self.guard = settings, layout, Guard(settings.guard)
        self.chunks = as_chunks(model)
        self.config: DiTConfig = self.chunks[0].config
        exact = lower(self.chunks, self.config.params_dtype)
        wrapping = DistributedDataParallelConfig(
            use_distributed_optimizer=layout.distributed_optimizer,
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=layout.overlap,
            overlap_param_gather=layout.overlap,
            bucket_size=BUCKET if layout.overlap else None,
        )
        self.wrapped = [DistributedDataParallel(self.config, wrapping, chunk) for chunk in self.chunks]
        for wrapped in self.wrapped:
            wrapped.broadcast_params()
        self.optimizer = self._optimizer()
        self.masters = Masters(self.chunks, self.optimizer, exact)
        self.config.grad_scale_func = self.optimizer.scale_loss
        self.config.finalize_model_grads_func = finalize_model_grads
        if layout.overlap:
            held = [wrapped.no_sync for wrapped in self.wrapped]
            self.config.no_sync_func = held if len(held) > 1 else held[0]

    @property
    def device(self) -> torch.device:
        return next(self.chunks[0].parameters()).device

    def _optimizer(self) -> MegatronOptimizer:
        config = self._optimizer_config()
        if self.settings.muon is None:
            return get_megatron_optimizer(config, self.wrapped)
        return muon_optimizer(config, self.wrapped, self.settings.muon)

    def _optimizer_config(self) -> OptimizerConfig:
        s = self.settings
        return OptimizerConfig(
            optimizer="adam",
            lr=s.learning_rate,
            weight_decay=s.weight_decay,
            adam_beta1=s.beta1,
            adam_beta2=s.beta2,
            adam_eps=s.epsilon,
            clip_grad=s.clip_gradient,
            bf16=self.config.bf16,
            params_dtype=self.config.params_dtype,
            use_distributed_optimizer=self.layout.distributed_optimizer,
            overlap_param_gather=self.layout.overlap,
        )

    def step(self, micro_batches: Sequence[Any], objective: Objective, learning_rate: float) -> dict[str, float]:
        """One optimizer update. Returns the objective's metrics, each a mean over all clips of the step that report it, `loss` summed over
        micro-batches and averaged over data-parallel ranks, and the gradient norm. Raises RefusedStepError before anything is changed."""
        for wrapped in self.wrapped:
            wrapped.train()
            wrapped.zero_grad_buffer()
        self.optimizer.zero_grad()
        reports = run_schedule(self.wrapped, micro_batches, objective, forward_only=False)
        metrics = _reduce(reports)
        self._set_rate(learning_rate)
        overflow = self.optimizer.prepare_grads()
        norm = float(self.optimizer.get_grad_norm())
        reason = "the gradient overflows" if overflow else self.guard.reason(metrics["loss"], norm)
        if reason:
            raise self.guard.refused(reason, _suspects(reports))
        self.optimizer.step()
        return {**metrics, "gradient_norm": norm, "learning_rate": learning_rate}

    def _set_rate(self, learning_rate: float) -> None:
        """Muon's rate keeps its proportion to Adam's, of which `learning_rate` is the present one."""
        for group in self.optimizer.param_groups:
            muon = self.settings.muon if "iterations" in group else None
            group["lr"] = learning_rate * (muon.learning_rate / self.settings.learning_rate if muon else 1.0)

    def sync_parameters(self) -> None:
        """Finish gathering the parameters of the last update; under overlap they are one step old until the next forward."""
        if self.layout.overlap:
            for wrapped in self.wrapped:
                wrapped.start_param_sync(force_sync=True)

    def network(self) -> list[MugDiT]:
        """The trained network in fp32; every rank calls it. It is the engine's own in fp32, else a copy."""
        self.sync_parameters()
        return self.masters.network(self.masters.values()) if self.masters.rounded else self.chunks

    def sharded_state(self, is_loading: bool) -> dict[str, Any]:
        model = sharded_state(self.chunks)
        optimizer = self.optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=SHARDING)
        return {"model": model, "optimizer": optimizer, "guard": self.guard.state()}

    def save(self, folder: Path, asynchronous: bool = False) -> list[Save]:
        """Write the checkpoint's `state`, or return what will write it while training goes on."""
        self.sync_parameters()
        self._check_finite()
        return save_sharded(self.sharded_state(is_loading=False), folder / "state", asynchronous)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises UserError when it is of another network or optimizer."""
        state = load_sharded(self.sharded_state(is_loading=True), folder / "state")
        load_state(self.chunks, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if "guard" in state:  # checkpoints of earlier versions have none
            self.guard.load(state["guard"])

    def _check_finite(self) -> None:
        """A last update may overflow, which only the next step's loss would show: such weights must not replace a good checkpoint."""
        if any(from_all_ranks(not _finite([p.detach() for p in all_parameters(self.chunks)]))):
            raise UserError("training diverged: the weights are not finite after the last step; lower the learning rate")


def _finite(values: Sequence[Tensor]) -> bool:
    """Sums, which take over what is not finite, are read five times as fast as every value is looked at; they may overflow themselves."""
    return bool(torch.stack([v.sum(dtype=torch.float32) for v in values]).isfinite().all()) or all(bool(v.isfinite().all()) for v in values)


def run_schedule(models: Sequence[Any], micro_batches: Sequence[Any], objective: Objective, forward_only: bool) -> list[dict[str, Any]]:
    """Forward (and backward) of all micro-batches through this rank's parts by megatron's pipeline schedule; what the objective reports
    of each, `loss` among it, on the ranks where the velocity comes out."""
    count = len(micro_batches)

    def forward_step(iterator: Iterator[Any], model: Any) -> tuple[Any, Callable[[Any], tuple[Tensor, dict[str, Any]]]]:
        batch = next(iterator)

        def loss(velocity: Any) -> tuple[Tensor, dict[str, Any]]:
            value, metrics = objective.loss(velocity, batch)
            # The schedule scales the returned loss in place (facts/megatron.md 2.3 item 1), so what is reported is a copy.
            return value * count, {"loss": total(value[None] * count), **metrics}

        return objective.forward(model, batch), loss

    iterators = [iter(micro_batches) for _ in models]
    reports: list[dict[str, Any]] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(models) > 1 else iterators[0],
        model=list(models) if len(models) > 1 else models[0],
        num_microbatches=count,
        seq_length=1,
        micro_batch_size=1,
        forward_only=forward_only,
    )
    return reports


def _reduce(reports: list[dict[str, Any]]) -> dict[str, float]:
    """Means over the clips of all micro-batches and data-parallel ranks; the last pipeline rank tells the others."""
    names = sorted({name for report in reports for name in report} - {CLIPS})
    sums = torch.stack([torch.stack([r[n] for r in reports if n in r]).sum(0) for n in names]) if names else torch.empty(0, 2)
    if names and parallel_state.get_data_parallel_world_size() > 1:
        dist.all_reduce(sums, group=parallel_state.get_data_parallel_group())
    metrics = [{name: float(value / count) for name, (value, count) in zip(names, sums, strict=True)}]
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast_object_list(metrics, src=last, group=parallel_state.get_pipeline_model_parallel_group())
    return metrics[0]


def _suspects(reports: list[dict[str, Any]]) -> list[str]:
    """Clips of all ranks whose loss is not finite; all clips of the step when each has a finite one. Every rank calls it."""
    clips = {name: float(loss) for r in reports if CLIPS in r for name, loss in zip(*r[CLIPS], strict=True)}
    everywhere = {name: loss for found in from_all_ranks(clips) for name, loss in found.items()}
    return sorted(name for name, loss in everywhere.items() if not math.isfinite(loss)) or sorted(everywhere)
