"""The recipe's part on downloads: what a server may cost. Same rules as mugv.recipe.schema."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mugv.recipe.models import ModelPart

PositiveReal = Annotated[float, Field(gt=0)]


class Fetch(ModelPart):
    """Limits of a download from the web; they hold for one source, the others do not wait for it."""

    maximum_gigabytes: PositiveReal = 64.0
    """A larger file is rejected as `unreadable`. Where the list says a source's `bytes`, no more than these are taken."""
    maximum_seconds: PositiveReal = 14400.0
    """A file that is not there after so long, all attempts together, is rejected as `unreadable`."""
    stalled_seconds: PositiveReal = 60.0
    """A server that sends less than 1,000 bytes a second for so long counts as away: its sources wait for the next run."""
