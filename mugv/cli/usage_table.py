"""What a run used and how much of its training time counted: the ledgers of its stages, for `mugv show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mugv.platform.records import RunRecord
from mugv.stages.usage import usage_of

if TYPE_CHECKING:
    from rich.console import Console

LOSSES = {
    "starting": "start-up",
    "saving": "checkpoints",
    "repeated": "repeated steps",
    "waiting": "waiting",
    "down": "down between tries",
    "other": "other",
}
"""Key of the ledger's seconds -> name, of what training loses."""
SUMS = ("cpu_seconds", "gpu_seconds", "waiting_seconds")


def run_usage(record: RunRecord) -> dict[str, Any]:
    """`stages`: usage by node, of those that worked in this run; `used`: of the run; `training`: goodput and losses, or None."""
    stages = {stage["node"]: usage for stage in record.stages() if (usage := usage_of(record, stage))}
    used = {name: sum(usage.get(name, 0.0) for usage in stages.values()) for name in SUMS}
    used["peak_bytes"] = max((usage.get("peak_bytes", 0.0) for usage in stages.values()), default=0.0)
    used["restarts"] = sum(usage["tries"] - 1 for usage in stages.values())
    return {"used": used, "training": _training([usage for usage in stages.values() if "goodput" in usage]), "stages": stages}


def _training(trained: list[dict[str, float]]) -> dict[str, Any] | None:
    wall = sum(usage["wall_seconds"] for usage in trained)
    if not wall:
        return None
    useful = sum(usage["useful_seconds"] for usage in trained)
    return {
        "stages": len(trained),
        "wall_seconds": wall,
        "useful_seconds": useful,
        "goodput": min(1.0, useful / wall),
        "steps": sum(usage["steps"] for usage in trained),
        "repeated_steps": sum(usage["repeated_steps"] for usage in trained),
        "lost_seconds": {kind: sum(usage.get(f"{kind}_seconds", 0.0) for usage in trained) for kind in LOSSES},
    }


def print_usage(console: Console, record: RunRecord) -> None:
    """A row a stage, and the run's goodput in a line."""
    from rich.table import Table

    found = run_usage(record)
    if not found["stages"]:
        return
    table = Table("used", "tries", "wall", "CPU", "GPU", "peak", "steps", "goodput", *LOSSES.values(), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for node, usage in found["stages"].items():
        table.add_row(node, *_cells(usage))
    console.print(table)
    used, training = found["used"], found["training"]
    amounts = f"{used['cpu_seconds']:,.0f} CPU seconds, {used['gpu_seconds']:,.0f} GPU seconds held"
    console.print(f"used {amounts}, at most {used['peak_bytes'] / 1e9:.2f} GB; {used['restarts']:.0f} restarts")
    if training:
        lost = {LOSSES[kind]: seconds / training["wall_seconds"] for kind, seconds in training["lost_seconds"].items() if seconds}
        told = ", ".join(f"{name} {share:.1%}" for name, share in sorted(lost.items(), key=lambda item: -item[1]))
        whole = f"{training['useful_seconds']:,.0f} s of {training['wall_seconds']:,.0f} s in {training['stages']} training stages"
        steps = f"{training['steps']:,.0f} steps that count"
        console.print(f"goodput {training['goodput']:.1%}: {whole} went into {steps}; lost: {told or 'nothing'}", soft_wrap=True)


def _cells(usage: dict[str, float]) -> list[str]:
    cells = [f"{usage['tries']:.0f}", f"{usage['wall_seconds']:,.1f} s", f"{usage['cpu_seconds']:,.1f} s"]
    busy = f", {usage['gpu_utilisation']:.0%} busy" if "gpu_utilisation" in usage else ""
    cells += [f"{usage['gpu_seconds']:,.0f} s{busy}" if usage["gpu_seconds"] else "", f"{usage['peak_bytes'] / 1e9:.2f} GB"]
    if "goodput" not in usage:
        return [*cells, "", "", *(_seconds(usage, kind) if kind in ("waiting", "down") else "" for kind in LOSSES)]
    return [*cells, f"{usage['steps']:,.0f}", f"{usage['goodput']:.0%}", *(_seconds(usage, kind) for kind in LOSSES)]


def _seconds(usage: dict[str, float], kind: str) -> str:
    value = usage.get(f"{kind}_seconds", 0.0)
    return f"{value:,.1f} s" if value >= 0.05 else ""
