"""Learning rate by step."""

from __future__ import annotations

import math

from mugv.recipe.schema import Optimizer


def learning_rate(settings: Optimizer, step: int, steps: int) -> float:
    """Linear warm-up, then constant, linear or cosine to `minimum_learning_rate` at the last step."""
    peak, low = settings.learning_rate, settings.minimum_learning_rate
    if step < settings.warmup_steps:
        return peak * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "linear":
        return peak + (low - peak) * done
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * done))
