"""A self-contained HTML page of one stage: facts, pictures, curves, tables. The same content gives the same text."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mugv.evaluation.report import Curve

MEDIA = {".png": "image/png", ".webp": "image/webp"}


@dataclass(frozen=True)
class Table:
    """`shaded`: its numbers are counts, drawn darker the larger they are."""

    title: str
    text: str
    head: list[str]
    rows: list[list[str | int]]
    shaded: bool = False

    @property
    def largest(self) -> int:
        return max((cell for row in self.rows for cell in row[1:] if isinstance(cell, int)), default=1) or 1


@dataclass(frozen=True)
class Page:
    title: str
    text: str
    facts: dict[str, str] = field(default_factory=dict)
    pictures: list[tuple[str, str, str]] = field(default_factory=list)
    """Title, text, and the picture as a data URI (`embedded`)."""
    curves: list[Curve] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def embedded(picture: Path) -> str:
    """A picture's content as a data URI."""
    return f"data:{MEDIA[picture.suffix]};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def render(page: Page) -> str:
    """Names and texts are escaped."""
    import jinja2

    from mugv.evaluation.charts import line_chart

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("mugv.stages").joinpath("page.html.j2").read_text()
    charts = [(curve.metric, line_chart(curve.steps, curve.values, curve.metric)) for curve in page.curves]
    return environment.from_string(template).render(page=page, charts=charts)
