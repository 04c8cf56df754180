"""The parts of a recipe about optimizers. Learning rates are per step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mugv.recipe.models import ModelPart as Part
from mugv.recipe.models import NonNegative, Rate, Weight

Decay = Annotated[float, Field(ge=0, lt=1)]


class MuonSettings(Part):
    """Muon for the linears of the blocks, Adam with the stage's own rate for all else."""

    learning_rate: Rate = 0.02
    """Peak rate; it follows the stage's schedule. An update's root mean square is 0.2 times the rate."""
    momentum: Decay = 0.95
    """Decay of the average of gradients; Nesterov."""
    iterations: Annotated[int, Field(ge=1, le=12)] = 5
    """Newton-Schulz steps that orthogonalise an update."""


class Guard(Part):
    """When a training step is refused before it touches the weights: its loss or its gradient is not finite, or it explodes."""

    skips: NonNegative = 0
    """Refused steps that a stage leaves out and logs; one more ends it. 0: the first ends it."""
    explosion: Annotated[float, Field(gt=1)] = 1000.0
    """A gradient norm of more than this times the largest of the last 100 steps' counts as an explosion; from the third step on."""


class Optimizer(Part):
    """Adam with decoupled weight decay, and its learning rate."""

    learning_rate: Rate
    """Highest rate, reached after the warm-up."""
    minimum_learning_rate: Weight = 0.0
    """Rate at the last step of `cosine` and `linear`."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How the rate falls after the warm-up."""
    warmup_steps: NonNegative = 0
    """Steps over which the rate rises linearly from 0."""
    beta1: Decay = 0.9
    """Adam's decay of the mean of gradients."""
    beta2: Decay = 0.99
    """Adam's decay of the mean of squared gradients."""
    epsilon: Rate = 1e-10
    """Adam's addend in the denominator."""
    weight_decay: Weight = 0.0
    """Decoupled decay (AdamW)."""
    clip_gradient: Weight = 1.0
    """Largest norm of the gradient over all parameters; 0: not clipped."""
    muon: MuonSettings | None = None
    """For layouts that keep whole matrices: parallel.tensor 1 and no distributed optimizer. Unset: Adam trains everything."""
    guard: Guard = Guard()
