"""Learning rate by step."""

from __future__ import annotations

import math

from mugv.recipe.schema import Optimizer


def learning_rate(settings: Optimizer, step: int, steps: int) -> float:
    """Linear warm-up, then constant, or linear or cosine to `minimum_learning_rate` at the last step (a single step runs at the peak)."""
    peak, low = settings.learning_rate, settings.minimum_learning_rate
    if step < settings.warmup_steps:
        return peak * (step + 1) / settings.warmup_steps
    left = steps - 1 - settings.warmup_steps
    done = (step - settings.warmup_steps) / left if left > 0 else float(settings.warmup_steps > 0)
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "linear":
        return peak + (low - peak) * done
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * done))
