"""One clip's conversation with a model: asked again when nothing, nonsense or a refused caption comes, as often as the recipe allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mugv.curation.captions.check import check, is_refusal
from mugv.curation.captions.compose import caption_schema, compose, parse_object, parse_parts, prompt, schema
from mugv.curation.captions.model import Answer, Model, NoAnswerError, Question
from mugv.curation.captions.pace import Pace
from mugv.curation.captions.record import Captioned
from mugv.curation.tags import KINDS, normalise
from mugv.recipe.curation import Captioning

Read = TypeVar("Read")
TEMPERATURE_AGAIN = 0.7
"""The same question at temperature 0 would bring the same answer."""
TOKENS_A_WORD = 3
CHARACTERS_A_WORD = 100
"""An answer of more than these a word is not looked at: what looks for refusals and loops is made for captions."""
TAGS_OF_A_KIND = 8
TAG_TOKENS = 400
TAG_PROMPT = (
    "What does this caption of a video name? Answer with one JSON object: subjects (persons, animals, things; singular nouns), actions "
    "(verbs in their base form), scenes (place, weather, time of day). English words in small letters, the most important first, at most "
    f"{TAGS_OF_A_KIND} of each, nothing that the caption does not say. Caption:\n"
)


class _RefusedError(Exception):
    """There is an answer, and it is no good caption."""


@dataclass
class Conversation:
    """All requests for one clip, with the tokens that they cost."""

    model: Model
    settings: Captioning
    pace: Pace
    tokens_input: int = 0
    tokens_output: int = 0

    async def caption(self, clip_id: str, pictures: list[bytes]) -> Captioned:
        """A caption, or the problem of the last one. Raises NoAnswerError when the last attempt brought no answer."""
        limit = self.settings.maximum_words * TOKENS_A_WORD + 200
        wanted = caption_schema() if self.settings.structured else None
        question = Question(prompt(self.settings, len(pictures)), tuple(pictures), wanted, limit)
        before = self.tokens_input, self.tokens_output
        try:
            found = await self._ask(question, lambda answer: _read_caption(answer, self.settings))
        except _RefusedError as error:
            found = Captioned(clip_id, problem=str(error))
        return self._spent(replace(found, clip_id=clip_id, source=self.model.name), before)

    async def tags(self, found: Captioned, caption: str) -> Captioned:
        """`found` with the tags of `caption`, and their tokens added. Raises NoAnswerError."""
        before = self.tokens_input, self.tokens_output
        question = Question(TAG_PROMPT + caption, schema=_tag_schema(), max_tokens=TAG_TOKENS)
        return self._spent(replace(found, tags=await self._ask(question, _read_tags)), before)

    def _spent(self, found: Captioned, before: tuple[int, int]) -> Captioned:
        spent = self.tokens_input - before[0], self.tokens_output - before[1]
        return replace(found, tokens_input=found.tokens_input + spent[0], tokens_output=found.tokens_output + spent[1])

    async def _ask(self, question: Question, read: Callable[[Answer], Read]) -> Read:
        """What `read` makes of the first answer that it takes; else the error of the last attempt."""
        last: Exception = NoAnswerError("not asked")
        for attempt in range(self.settings.attempts):
            await self.pace.turn()
            if self.pace.closed:
                raise self.pace.closed
            try:
                return await self._attempt(question, read)
            except _RefusedError as error:
                self.pace.answered()
                last, question = error, replace(question, temperature=TEMPERATURE_AGAIN)
            except NoAnswerError as error:
                last, question = error, replace(question, temperature=TEMPERATURE_AGAIN if error.answered else question.temperature)
                if not error.again:
                    break
                if not error.answered and attempt + 1 < self.settings.attempts:
                    await self.pace.back_off(error, attempt)
        if isinstance(last, NoAnswerError):
            self.pace.lost(last)
        raise last

    async def _attempt(self, question: Question, read: Callable[[Answer], Read]) -> Read:
        answer = await self.model.ask(question)
        self.tokens_input += answer.tokens_input
        self.tokens_output += answer.tokens_output
        found = read(answer)
        self.pace.answered()
        return found


def _read_caption(answer: Answer, settings: Captioning) -> Captioned:
    """Raises _RefusedError for a caption that the check refuses, NoAnswerError for text that is not what was asked for."""
    most = CHARACTERS_A_WORD * settings.maximum_words + 2000
    if len(answer.text) > most:
        raise _RefusedError(f"too long: {len(answer.text)} characters, at most {most}")
    if is_refusal(answer.text):
        raise _RefusedError(check(answer.text, settings))
    if answer.cut:
        raise _RefusedError(f"too long: stopped after {answer.tokens_output} tokens, at most {settings.maximum_words} words")
    try:
        parts = parse_parts(answer.text) if settings.structured else {}
    except ValueError as error:
        raise _malformed(answer, error) from None
    caption = compose(parts, settings) if settings.structured else " ".join(answer.text.split())
    problem = check(caption, settings)
    if problem:
        raise _RefusedError(problem)
    return Captioned("", caption, parts)


def _read_tags(answer: Answer) -> tuple[str, ...]:
    try:
        tree = parse_object(answer.text)
        listed = {kind: tree[f"{kind}s"] for kind in KINDS}
        if not all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in listed.values()):
            raise ValueError("a tag that is no text")
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed(answer, error) from None
    return tuple(sorted({tag for kind, words in listed.items() for word in words[:TAGS_OF_A_KIND] for tag in normalise(kind, word)}))


def _malformed(answer: Answer, error: Exception) -> NoAnswerError:
    return NoAnswerError("malformed", f"{error} in {answer.text[:80]!r}", answered=True)


def _tag_schema() -> dict[str, Any]:
    words = {"type": "array", "items": {"type": "string"}, "maxItems": TAGS_OF_A_KIND}
    return schema("tags", {f"{kind}s": words for kind in KINDS})
