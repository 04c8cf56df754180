"""What a captioning model is to the rest: something that answers a question about pictures, or says why not now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Question:
    """One request."""

    text: str
    pictures: tuple[bytes, ...] = ()
    """JPEG, in the order of time."""
    schema: dict[str, Any] | None = None
    """`response_format` of the structured answer that is wanted; None: plain text."""
    max_tokens: int = 1024
    temperature: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What came back, with the tokens that it cost."""

    text: str
    tokens_input: int = 0
    tokens_output: int = 0
    cut: bool = False
    """The model was stopped by `max_tokens`."""


class NoAnswerError(Exception):
    """This request brought nothing; another may. `reason` is short and countable (`429`, `timeout`), `detail` says more."""

    def __init__(
        self, reason: str, detail: str = "", wait_seconds: float | None = None, again: bool = True, answered: bool = False
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.wait_seconds = wait_seconds
        """What the server asked to wait (Retry-After)."""
        self.again = again
        """False: the same request would fail again."""
        self.answered = answered
        """The server is well, its model wrote something else than was asked for: no reason to wait before asking again."""


class Model(Protocol):
    """Raises NoAnswerError for what may pass, UserError for what stops the whole stage (wrong key, no such model)."""

    name: str
    """What the manifest says as caption_source."""

    async def ask(self, question: Question) -> Answer: ...

    async def close(self) -> None: ...
