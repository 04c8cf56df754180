"""`mugv plan --gpus N`: how often each training stage should save, beside how often it does, and the goodput of both."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mugv.training.goodput import STALL_SHARE, Failures, Save, checkpoint_bytes, daly, expected, recommended, simulate, young
from mugv.training.layouts import Cluster, Work

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Trouble:
    """What is assumed of failures and of the storage."""

    failures: Failures
    storage: float = 5e9
    """Bytes a second that all ranks together write."""


def checkpoint_document(work: Work, step_seconds: float, cluster: Cluster, trouble: Trouble) -> dict[str, Any]:
    """The recipe's interval and the recommended one, each with its goodput; seconds and steps. Deterministic."""
    between = trouble.failures.between(cluster.gpus)
    size = checkpoint_bytes(work.cost.parameters, work.average)
    asynchronous = work.recipe.parallel.async_save
    waiting = Save(size, trouble.storage)
    behind = replace(waiting, stall_share=STALL_SHARE)
    own = behind if asynchronous else waiting
    steps = max(1, min(round(recommended(behind, between) / step_seconds), work.stage.steps))
    found = simulate(steps * step_seconds, behind, trouble.failures, between)
    interval = work.stage.save_every * step_seconds
    return {
        "bytes": size,
        "write_seconds": own.write,
        "stall_seconds": own.stall,
        "seconds_between_failures": between,
        "asynchronous": asynchronous,
        "save_every": work.stage.save_every,
        "seconds": interval,
        "goodput": expected(interval, own, trouble.failures, between),
        "recommended": {
            "save_every": steps,
            "seconds": steps * step_seconds,
            "young_seconds": young(behind.stall, between),
            "daly_seconds": daly(behind.stall, between),
            "goodput": expected(steps * step_seconds, behind, trouble.failures, between),
            "simulated": {
                "goodput": found.goodput,
                "standard_error": found.error,
                "saving": found.saving,
                "repeated": found.repeated,
                "down": found.down,
            },
        },
    }


def print_checkpoints(console: Console, documents: dict[str, dict[str, Any]], cluster: Cluster, trouble: Trouble) -> None:
    """Assumptions and a row a stage. `documents`: checkpoint_document by stage."""
    from rich.table import Table

    failures = trouble.failures
    hours = failures.between(cluster.gpus) / 3600
    console.print(
        f"\ncheckpoints: a failure each {hours:.1f} hours ({failures.rate:g} per 1,000 GPUs a day), noticed after {failures.notice:g} s,"
        f" restarted in {failures.restart:g} s; storage {trouble.storage / 1e9:g} GB/s in all; an asynchronous save stops the loop for"
        f" {STALL_SHARE:.0%} of its write. Goodput: share of the time whose steps are kept"
    )
    headings = ("stage", "GB", "write", "recipe: save_every", "goodput", "better", "Young", "goodput", "simulated")
    table = Table(*headings, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, found in documents.items():
        better = found["recommended"]
        simulated = better["simulated"]
        kind = "" if found["asynchronous"] else ", waiting"
        table.add_row(
            f"  {name}",
            f"{found['bytes'] / 1e9:.0f}",
            f"{found['write_seconds']:.0f} s",
            f"{found['save_every']} ({_minutes(found['seconds'])}{kind})",
            f"{found['goodput']:.2%}",
            f"{better['save_every']} ({_minutes(better['seconds'])})",
            _minutes(better["young_seconds"]),
            f"{better['goodput']:.2%}",
            f"{simulated['goodput']:.2%} ± {simulated['standard_error']:.2%}",
        )
    console.print(table)
    if not all(found["asynchronous"] for found in documents.values()):
        console.print("  better: with parallel.async_save: true")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h" if math.isfinite(seconds) else "never"
