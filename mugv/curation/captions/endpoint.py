"""A model behind an OpenAI-compatible server (vLLM and its like): pictures as base64 JPEG, answers by JSON schema."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from mugv.curation.captions.model import Answer, NoAnswerError, Question
from mugv.curation.retry_after import seconds_of
from mugv.errors import UserError
from mugv.recipe.curation import Captioning

if TYPE_CHECKING:
    import httpx2

LARGEST_ANSWER = 4 << 20
"""Bytes: far more than any caption, and nothing to the memory of many requests at once."""
MOST_TOKENS = 1 << 40
TRANSIENT = {408, 409, 425, 429}
"""Client errors that pass, beside all of 5xx."""
REFUSED = {401: "the key", 403: "the key's rights", 404: "the address and the model's name"}
"""Status -> what to look at; these stop the stage at once."""


class Endpoint:
    """One connection pool. Retries are the caller's, who knows how many requests are under way."""

    def __init__(self, settings: Captioning) -> None:
        import openai

        assert settings.url is not None
        assert settings.model is not None
        self.name = settings.model
        self._settings = settings
        # A server of one's own wants no key; the client insists on some text.
        key = os.environ.get(settings.key_variable) or "none"
        # Asked for as it is: what is unpacked has no size until it is there.
        bounded = openai.DefaultAsyncHttpxClient(event_hooks={"response": [_bound]}, headers={"Accept-Encoding": "identity"})
        self._client = openai.AsyncOpenAI(
            base_url=settings.url, api_key=key, timeout=settings.timeout_seconds, max_retries=0, http_client=bounded
        )

    async def ask(self, question: Question) -> Answer:
        import openai

        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                reply = await self._client.chat.completions.create(**self._request(question))
            return _answer(reply)
        except NoAnswerError:
            raise
        except (openai.APITimeoutError, TimeoutError):
            raise NoAnswerError("timeout", f"no answer in {self._settings.timeout_seconds:g} s") from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, _OddAnswerError):
                raise NoAnswerError("malformed", str(error.__cause__)) from None
            raise NoAnswerError("no connection", f"{self._settings.url}, {_first_line(error.__cause__ or error)}") from None
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except _OddAnswerError as error:
            raise NoAnswerError("malformed", str(error)) from None
        except Exception as error:  # whatever an odd body makes the client raise, RecursionError too
            raise NoAnswerError("malformed", f"{type(error).__name__}: {_first_line(error)}") from None

    async def close(self) -> None:
        await self._client.close()

    def _request(self, question: Question) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _data_url(p)}} for p in question.pictures]
        content.append({"type": "text", "text": question.text})
        request: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
        }
        if question.schema:
            request["response_format"] = question.schema
        return request

    def _status_error(self, error: Any) -> Exception:
        status, said = error.status_code, _said(error)
        if status in REFUSED:
            look = REFUSED[status]
            where = f"curation.caption.url {self._settings.url}, model {self.name}"
            key = f" (variable {self._settings.key_variable})" if status == 401 else ""
            return UserError(f"{where}: the server answers {status} ({said}); look at {look}{key}")
        passes = status in TRANSIENT or status >= 500
        return NoAnswerError(str(status), said, seconds_of(error.response.headers.get("retry-after")), again=passes)


class _OddAnswerError(Exception):
    """The answer is too large, or packed."""


async def _bound(response: httpx2.Response) -> None:
    """Have an answer's body read no further than it may go."""
    packed = response.headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise _OddAnswerError(f"the answer comes as {packed[:20]!r}, which was not asked for")
    response.stream = _bounded_stream(response.stream)


def _bounded_stream(stream: Any) -> Any:
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            total = 0
            async for piece in stream:
                total += len(piece)
                if total > LARGEST_ANSWER:
                    raise _OddAnswerError(f"the answer is larger than {LARGEST_ANSWER >> 20} MB")
                yield piece

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def _data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _answer(reply: Any) -> Answer:
    """Raises NoAnswerError when the body is not a chat completion with text."""
    try:
        choice = reply.choices[0]
        message, usage = choice.message, reply.usage
        text = message.content or getattr(message, "refusal", None) or ""
        # Half a surrogate pair is no text that a file can hold.
        text.encode()
        return Answer(text, _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens"), choice.finish_reason == "length")
    except (AttributeError, IndexError, KeyError, TypeError, UnicodeEncodeError):
        shown = reply if isinstance(reply, str) else repr(reply)
        raise NoAnswerError("malformed", f"the body is no chat completion: {shown[:80]!r}") from None


def _tokens(usage: Any, name: str) -> int:
    """0 for what is no count."""
    count = getattr(usage, name, None)
    return count if isinstance(count, int) and 0 < count < MOST_TOKENS else 0


def _said(error: Any) -> str:
    """The server's own words, in one short line."""
    body = error.body
    said = body.get("message") or json.dumps(body) if isinstance(body, dict) else body
    return _first_line(said or error)


def _first_line(what: Any) -> str:
    lines = str(what).strip().splitlines()
    return (lines[0] if lines else type(what).__name__)[:160]
