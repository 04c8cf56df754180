"""Which combinations of the sample footage are asked for where, so that no prompt is used for two purposes.

    72 = 12 held out (never in the footage) + 12 for the alignment stage's candidates + 48 for the evaluation's "seen" column

Each group has every colour, shape and direction equally often.
"""

from __future__ import annotations

from mugv.media.shapes import COLOURS, DIRECTIONS, SHAPES, Combination, held_out_combinations, seen_combinations

__all__ = ["alignment_combinations", "cycle", "evaluation_combinations", "held_out_combinations"]


def alignment_combinations() -> tuple[Combination, ...]:
    """Twelve seen combinations that candidates are generated and labelled for; the evaluation never asks for them."""
    colours, shapes, directions = list(COLOURS), list(SHAPES), list(DIRECTIONS)
    return tuple(Combination(colours[k // 2], shapes[(k + 1) % 3], directions[(k + 2) % 4]) for k in range(12))


def evaluation_combinations() -> tuple[Combination, ...]:
    """The other 48 seen combinations."""
    alignment = set(alignment_combinations())
    return tuple(c for c in seen_combinations() if c not in alignment)


def cycle(combinations: tuple[Combination, ...], clips: int) -> list[Combination]:
    """`clips` combinations, each as often as the others (once more for the first ones when `clips` is not a multiple)."""
    return [combinations[k % len(combinations)] for k in range(clips)]
