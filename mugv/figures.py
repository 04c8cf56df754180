"""How numbers are written for people, in reports of data and of models."""

from __future__ import annotations


def number(value: float) -> str:
    """Three significant digits, whole numbers in full from 1000 on, an exponent where that stays shorter."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.1e}"
