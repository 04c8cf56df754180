"""What does not match between the tensors of a checkpoint and those of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mugv.errors import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """A tensor that is missing, unexpected or of another shape."""

    name: str
    kind: Literal["missing", "unexpected", "wrong shape"]
    found: Shape | None
    expected: Shape | None


class MismatchError(UserError):
    """The checkpoint is not of this network; `differences` has every tensor, the message the first three."""

    def __init__(self, where: object, differences: list[Difference]) -> None:
        self.differences = differences
        first = "; ".join(_say(d) for d in differences[:3])
        super().__init__(f"{where}: {len(differences)} tensors do not match: {first}{'; ...' if len(differences) > 3 else ''}")


def compare(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[Difference]:
    """Every difference, in the order of the network, unexpected tensors last."""
    out = []
    for name, shape in expected.items():
        if name not in found:
            out.append(Difference(name, "missing", None, shape))
        elif found[name] != shape:
            out.append(Difference(name, "wrong shape", found[name], shape))
    return out + [Difference(name, "unexpected", shape, None) for name, shape in found.items() if name not in expected]


def _say(d: Difference) -> str:
    if d.kind == "wrong shape":
        return f"{d.name} is {list(d.found or ())}, expected {list(d.expected or ())}"
    return f"{d.name} is {d.kind}"
