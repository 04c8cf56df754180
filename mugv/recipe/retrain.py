"""The recipe's part on retraining: when new data counts as other data than the champion's, and what happens then."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from mugv.recipe.models import ModelPart as Part
from mugv.recipe.models import Positive, Rate

Number = Literal[
    "sharpness", "motion", "aesthetic", "exposure", "contrast", "saturation", "border", "text", "shake", "freeze", "speed_change",
    "blockiness", "bits_per_pixel", "source_seconds", "source_fps", "aspect", "seconds", "frames", "fps", "caption_words",
]  # fmt: skip
Category = Literal["size", "licence", "caption_source", "transfer", "field_order", "rejected"]
Terms = Literal["tags", "words"]
NUMBERS, CATEGORIES, TERMS = get_args(Number), get_args(Category), get_args(Terms)
Asked = Literal["warn", "confirm", "stop"]


class Drift(Part):
    """The gate for data: the clips that curation kept, compared with those that the champion was trained on."""

    score: Literal["psi", "ks"] = "psi"
    """What is held to the limit: the population stability index over ten bins of the champion's data, or the Kolmogorov-Smirnov distance
    (the largest difference of the two cumulative shares, 0 to 1)."""
    limit: Rate | None = None
    """From where on a column has drifted, if chance does not explain it; unset: 0.25 for psi, 0.2 for ks."""
    limits: dict[Number | Category | Terms, Rate] = Field(default_factory=dict)
    """Other limits for single columns: a score, `seconds`, `frames`, `fps`, `caption_words`, `size`, `licence`, `caption_source`,
    `transfer`, `field_order`, `rejected` (reasons of rejection), `tags` or `words` (of captions; the one that changed most)."""
    significance: Annotated[float, Field(ge=1e-6, le=0.2)] = 0.01
    """How often equal data may be taken for drifted, over all columns together."""
    minimum_rows: Positive = 200
    """With fewer clips on either side drift is written down and holds nothing back."""
    on_drift: Asked = "confirm"
    """warn: train all the same; confirm: wait for `mugv confirm`; stop: end, whatever anyone says."""
    on_missing: Asked = "warn"
    """The same where the champion's clips are gone from the store, so that nothing can be compared."""


class Retrain(Part):
    """Retraining by the clock."""

    drift: Drift = Drift()
