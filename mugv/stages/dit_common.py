"""What the DiT's training stages share: their checkpoint's description, the previous weights, and their processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mugv.durable import replace_text
from mugv.errors import EXIT_TRY_AGAIN, EXIT_USER, ServiceAwayError, StoppedError, UserError
from mugv.ranks import STOPPED
from mugv.recipe import recipe_to_json
from mugv.stages.base import StageContext
from mugv.stages.placement import Layout, layout_of, training_pool
from mugv.stages.progress import ProgressWriter
from mugv.stages.worker import FAILURE

if TYPE_CHECKING:
    from mugv.dataset.latentset import LatentSet
    from mugv.dit.model import MugDiT
    from mugv.recipe.schema import TrainStage


CLOCK = frozenset({"time", "seconds", "model_tflops", "mfu"})
"""What a line of a loss curve says of when and how fast."""


def describe(ctx: StageContext, latents: LatentSet, stage: TrainStage, divisor: int) -> dict[str, Any]:
    """config.json of a DiT checkpoint: everything that generation and later stages need."""
    from mugv.precision import here, resolve

    recipe = ctx.recipe
    return {
        "model": recipe.dit.model_dump(),
        "width_divisor": divisor,
        "text": recipe.text.model_dump(),
        "latent_norm": {"shift": latents.norm.shift, "scale": latents.norm.scale},
        "size": stage.size,
        "frames": stage.frames,
        "fps": recipe.curation.clip.fps,
        "flow": stage.flow.model_dump(),
        "latents": ctx.refs["latents"].to_dict(),
        "precision": resolve(recipe.parallel.precision, here()),
    }


def previous_model(ctx: StageContext) -> tuple[list[MugDiT], dict[str, Any]]:
    """This rank's parts of the network of the stage before, in fp32, and its configuration."""
    import torch

    from mugv.training.model_io import load_chunks

    return load_chunks(ctx.inputs["previous"], ctx.recipe.parallel, torch.float32)


def attach_adapters(chunks: list[MugDiT], stage: TrainStage, seed: int) -> None:
    """Where the recipe asks for LoRA: freeze the network and put fresh adapters beside its linears."""
    from mugv.dit.lora import attach

    if stage.lora is not None:
        for chunk in chunks:
            attach(chunk, stage.lora, seed)


def merge_adapters(ctx: StageContext, chunks: list[MugDiT], stage: TrainStage) -> None:
    """Keep the trained adapters alone in `adapter/` of the output and add them to the weights."""
    from mugv.dit.lora import merge
    from mugv.training.adapters import save_adapter

    if stage.lora is not None:
        save_adapter(chunks, ctx.out / "adapter", stage.lora)
        for chunk in chunks:
            merge(chunk)


def run_training(ctx: StageContext, train: Callable[[StageContext], dict[str, float]], module: str) -> dict[str, float]:
    """Call `train(ctx)` here for one process, else in the processes of the recipe's layout, on this machine or as a job of many nodes;
    the metrics of rank 0 come back."""
    stage, resources = module.rpartition(".")[2], ctx.recipe.resources
    layout = layout_of(ctx.recipe, stage, getattr(resources, training_pool(stage)))
    if layout == Layout(1, 1):
        return train(ctx)
    from mugv.platform import slurm
    from mugv.stages.many_nodes import OUT, run_job

    specification, report, failure = (ctx.work / name for name in ("distributed.json", "distributed-metrics.json", FAILURE))
    if layout.nodes > 1 and not slurm.here():
        _specify(specification, ctx, module, ctx.work / OUT)
        ending = run_job(ctx, stage, layout, specification, [report, failure])
        code, told = (EXIT_USER if ending.by_user else EXIT_TRY_AGAIN, ending.reason) if ending else (0, "")
    else:
        report.unlink(missing_ok=True)
        failure.unlink(missing_ok=True)
        _specify(specification, ctx, module, ctx.out)
        code = _run_processes(ctx, stage, layout, specification)
        told = f"its processes ended with code {code}; their own messages are above"
        if code in STOPPED:
            raise StoppedError(code - 128, f"in {ctx.node}; its checkpoint is kept")
    if code:
        raise _failure(failure, code, f"{ctx.node}: {told}")
    return json.loads(report.read_text())


def _run_processes(ctx: StageContext, stage: str, layout: Layout, specification: Path) -> int:
    """Run the stage's processes to their end on this machine, or on the nodes of this Slurm job; the exit code (mugv.ranks)."""
    from mugv.platform import slurm
    from mugv.platform.launch import LaunchSpec, run_local

    resources = ctx.recipe.resources
    launch = LaunchSpec(
        "mugv.stages.worker",
        (str(specification),),
        layout.nodes,
        layout.processes_per_node,
        grace_seconds=resources.grace_seconds,
        environment=dict(getattr(resources, training_pool(stage)).environment) if slurm.here() else {},
    )
    return slurm.run_nodes(launch, resources.slurm.python) if layout.nodes > 1 else run_local(launch)


def _specify(path: Path, ctx: StageContext, module: str, out: Path) -> None:
    """What each process reads to do its part of the stage."""
    specification = {
        "recipe": recipe_to_json(ctx.recipe),
        "node": ctx.node,
        "index": ctx.index,
        "inputs": {k: str(v) for k, v in ctx.inputs.items()},
        "refs": {k: v.to_dict() for k, v in ctx.refs.items()},
        "out": str(out),
        "work": str(ctx.work),
        "module": module,
        "record": str(ctx.progress.record.folder) if isinstance(ctx.progress, ProgressWriter) else None,
    }
    replace_text(path, json.dumps(specification))


def _failure(path: Path, code: int, otherwise: str) -> Exception:
    """What the first process that failed said, else that it said nothing."""
    kinds = {EXIT_USER: UserError, EXIT_TRY_AGAIN: ServiceAwayError}
    try:
        told = json.loads(path.read_text())
        return kinds.get(told["code"], RuntimeError)(str(told["error"]))
    except (OSError, ValueError, KeyError, TypeError):
        return kinds.get(code, RuntimeError)(otherwise)


def is_main() -> bool:
    """Whether this process writes the outputs."""
    return int(os.environ.get("RANK", "0")) == 0


def publish_curve(folder: Path, out: Path) -> None:
    """A stage's loss curve for its output, without what the clock said: two tries of one task must publish the same."""
    if is_main():
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        kept = [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))


def final_metrics(folder: Path, last: int = 20) -> dict[str, float]:
    """Means of the last steps of a curve."""
    from mugv.training.metrics_log import MetricsLog

    lines = MetricsLog(folder / "metrics.jsonl").read()
    tail = lines[-last:]
    names = {n for line in tail for n in line} - {"step", "time", "learning_rate", "skipped"}
    skipped = sum("skipped" in line for line in lines)
    means = {f"final_{n}": sum(line[n] for line in tail if n in line) / sum(n in line for line in tail) for n in sorted(names)}
    counts = {"steps": len(lines), **({"skipped_steps": skipped} if skipped else {})}
    return {**means, **counts, "train_seconds": sum(line["seconds"] for line in lines)}
