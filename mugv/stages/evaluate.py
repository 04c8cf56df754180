"""Stage `evaluate`: what the model can do, as numbers, pictures and one page.

Output: report.html, report.json, metrics.json, results.json (what was measured of each clip), samples/.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from mugv.recipe import digest
from mugv.stages.base import StageContext
from mugv.stages.graph import build_graph

if TYPE_CHECKING:
    from torch.nn import Module

    from mugv.evaluation.assess import Assessment
    from mugv.evaluation.paired import Group
    from mugv.evaluation.report import Curve
    from mugv.generation import Generator


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: clips, vae, latents, checkpoint, and optionally `histories/<node>`: outputs of training stages, for their curves."""
    from mugv.dataset.clipset import ClipSet
    from mugv.evaluation import output
    from mugv.evaluation.assess import assess
    from mugv.evaluation.paired import FILE, to_json
    from mugv.evaluation.report import Origin, ReportData, save_report
    from mugv.generation import Generator

    settings, name = ctx.recipe.evaluate, ctx.recipe.name
    clip_set = ClipSet.open(ctx.inputs["clips"])
    # The VAE in fp32: its own reconstructions are measured here. Text as the training captions were encoded.
    precision, folders = ctx.recipe.parallel.precision, (ctx.inputs["checkpoint"], ctx.inputs["vae"])
    generator = Generator.open(*folders, precision=precision, vae_precision="fp32", text_precision="fp32")
    assessment = assess(clip_set, generator.vae, generator, settings, ctx.progress)
    losses = _validation_losses(ctx, generator)
    metrics = assessment.metrics() | ({"validation_flow_loss": math.fsum(losses.values()) / len(losses)} if losses else {})
    parameters = {"VideoVAE": _parameters(generator.vae), "MUG-DiT": _parameters(generator.model)}
    output.write_metrics(assessment, metrics, ctx.out, settings.sampler, generator.size, generator.frames)
    (ctx.out / FILE).write_text(to_json(_results(ctx, generator, assessment, losses)))
    sheets = output.write_samples(assessment, ctx.out, generator.file_fps)
    data = ReportData(
        title=f"{name}: evaluation",
        recipe_name=name,
        recipe_digest=digest(ctx.recipe),
        facts=output.facts(assessment, metrics, parameters, len(losses)),
        columns=output.report_columns(assessment),
        judge_reason=assessment.judge_reason,
        bars=dict(ctx.recipe.register_.gate.minimum),
        curves=_curves(ctx),
        sheets=sheets,
        clips=output.clip_counts(ctx.inputs["clips"]),
        origins=[Origin(source, ref.uri, ref.key, ref.digest) for source, ref in ctx.refs.items()],
        pictures={n: (ctx.out / n).read_bytes() for sheet in sheets for n in (sheet.still, sheet.moving)},
    )
    save_report(data, ctx.out)
    return metrics


def _parameters(network: Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _validation_losses(ctx: StageContext, generator: Generator) -> dict[str, float]:
    """Held-out clip -> flow loss; {} when no clip was held out."""
    from mugv.dataset.latentset import LatentSet
    from mugv.training.validation import validation_losses

    latents = LatentSet.open(ctx.inputs["latents"])
    clips = min(ctx.recipe.evaluate.flow_loss_clips, len(latents.clips("validation")))
    return validation_losses(generator.model, latents, generator.size, _ratio(generator), clips) if clips else {}


def _ratio(generator: Generator) -> float:
    from mugv.training.flow_data import stage_ratio

    return stage_ratio(generator.flow, generator.size, 1 + generator.frames // 8)


def _results(ctx: StageContext, generator: Generator, assessment: Assessment, losses: dict[str, float]) -> dict[str, Group]:
    """Of each clip, with what must be equal in two evaluations for their numbers to mean the same."""
    from mugv.dataset.latentset import LatentSet
    from mugv.digests import file_digest
    from mugv.evaluation.paired import Group
    from mugv.stages.code_digest import code_digest

    recipe, norm = ctx.recipe, LatentSet.open(ctx.inputs["latents"]).norm
    shape = {"size": f"{generator.size[0]}x{generator.size[1]}", "length": f"{generator.frames} frames"}
    judged = {"judge": code_digest(("mugv.evaluation.judge",)), "sampler": recipe.evaluate.sampler.model_dump_json()}
    latents = {
        "VAE": file_digest(ctx.inputs["vae"] / "model.safetensors"),
        "latent norm": json.dumps([norm.shift, norm.scale]),
        "text encoder": recipe.text.model_dump_json(),
        "time shift": repr(_ratio(generator)),
    }
    found = assessment.results(shape, judged)
    if losses:
        found["validation"] = Group(shape | latents, list(losses), {"flow_loss": list(losses.values())})
    return found


def _curves(ctx: StageContext) -> list[Curve]:
    """Curves of the training stages whose outputs this stage can see, in the order of the run."""
    from mugv.evaluation.report import read_curves

    nodes = build_graph(ctx.recipe)
    own = next(node for node in nodes if node.name == "evaluate").inputs
    folders = {own[name]: ctx.inputs[name] for name in ("vae", "checkpoint")}
    folders |= {name.removeprefix("histories/"): path for name, path in ctx.inputs.items() if name.startswith("histories/")}
    return [curve for node in nodes if node.name in folders for curve in read_curves(node.name, folders[node.name] / "metrics.jsonl")]
