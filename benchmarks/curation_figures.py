"""What the benchmarks of curation share: a figure beside its bar, the recipe that is measured, the folder of real footage."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mugv.recipe.curation import Curation

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Figure:
    """A measured number beside its bar."""

    name: str
    value: float
    bar: float
    at_least: bool = True
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def line(self) -> str:
        sign, verdict = ("at least" if self.at_least else "at most"), ("ok" if self.holds else "FALLS SHORT")
        return f"{self.name:52} {self.value:10.4g}   {sign} {self.bar:<8g} {verdict:12} {self.note}".rstrip()


def footage_settings() -> Curation:
    """The filters of configs/footage.yaml. Windows that do not overlap, so that every clip counts once; captions are not asked for."""
    from mugv.recipe import load_recipe

    settings = load_recipe(ROOT / "configs" / "footage.yaml").curation
    clip = settings.clip.model_copy(update={"stride_frames": settings.clip.frames})
    return settings.model_copy(update={"clip": clip, "require_caption": False})


def real_videos() -> Path | None:
    """The folder of real footage: MUGV_REAL_VIDEOS, or ../shared/videos; None where there is none."""
    folder = Path(os.environ.get("MUGV_REAL_VIDEOS") or ROOT.parent / "shared" / "videos")
    return folder if folder.is_dir() else None
