"""One stage for all: a resumable count with a loss curve, and the files that later stages and the platform look for.

Environment: TINY_FAIL=<node>:<user|defect|sleep|fill> makes a node misbehave; TINY_STEPS is the length of the count.
"""

import json
import os
import time

from mugv.errors import UserError
from mugv.evaluation.scores import ROWS
from mugv.stages.base import StageContext
from mugv.training.metrics_log import MetricsLog

RATE = {"correct": 8, "n": 10, "value": 0.8, "low": 0.49, "high": 0.94, "abstained": 0}


def data_digest(recipe: object, state: object = None) -> str:
    return "d" * 64


def run(ctx: StageContext) -> dict[str, float]:
    steps = int(os.environ.get("TINY_STEPS", "5"))
    log = MetricsLog(ctx.work / "train" / "metrics.jsonl")
    for step in range(len(log.read()), steps):
        log.write(step, loss=1.0 / (step + 1), seconds=0.01)
        ctx.progress(step + 1, steps, {"loss": 1.0 / (step + 1)})
        misbehave(ctx, step)
    for name, folder in ctx.inputs.items():
        assert (folder / "manifest.json").is_file(), name
    (ctx.out / "config.json").write_text(json.dumps({"node": ctx.node}))
    if ctx.node == "evaluate":
        evaluate(ctx)
    return {"steps": float(steps), "final_loss": 1.0 / steps}


def misbehave(ctx: StageContext, step: int) -> None:
    node, _, how = os.environ.get("TINY_FAIL", "").partition(":")
    if node != ctx.node or step != 2:
        return
    if how == "user":
        raise UserError("captions.jsonl line 3: not JSON; expected one object a line")
    if how == "defect":
        raise ZeroDivisionError("a defect")
    if how == "fill":
        (ctx.out / "big").write_bytes(b"x" * (64 << 20))
    if how == "sleep":
        time.sleep(120)


def evaluate(ctx: StageContext) -> None:
    score = {"n": 10, **dict.fromkeys(ROWS, RATE)}
    report = {
        "title": "t", "recipe_name": "tiny", "recipe_digest": "d", "run_id": "", "facts": [], "judge_reason": "",
        "columns": [{"key": "t2v_seen", "title": "T2V, combinations seen", "score": score}],
        "bars": {}, "curves": [], "sheets": [], "clips": {}, "stages": [], "origins": [], "gate": None,
    }  # fmt: skip
    (ctx.out / "report.json").write_text(json.dumps(report))
    (ctx.out / "report.html").write_text("<p>report</p>")
    (ctx.out / "metrics.json").write_text(json.dumps({"t2v_seen_all": 0.8}))
