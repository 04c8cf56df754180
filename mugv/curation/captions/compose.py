"""The five parts of a structured caption, how they are asked for, and the one text that is composed from them.

A composed caption opens with "This video shows", after the style of the published default prompt (facts: "This video describes").
"""

from __future__ import annotations

import json
import re
from typing import Any

from mugv.recipe.curation import Captioning

PARTS = {
    "subject": "who or what is seen and what they do: a phrase that goes on after 'This video shows', without a full stop",
    "appearance": "how the subject looks: clothing, colours, shape, material",
    "motion": "how subject and objects move, in the order of time",
    "camera": "how the camera moves, its distance and angle; say when it is still",
    "background": "place, light, and what is behind the subject",
}
OPENING = {"en": "This video shows "}
NOTHING = {"", "none", "n/a", "na", "unknown", "not visible", "not applicable", "-"}
_SCORE = re.compile(r" aesthetic score: \d+\.\d\.$")
_SMALL = {"a", "an", "the", "one", "two", "three", "four", "five", "six", "several", "many", "some", "people", "men", "women", "children"}
_END = (".", "!", "?", "。", "！", "？", "…", '."')


def prompt(settings: Captioning, count: int) -> str:
    """What the model is asked beside `count` pictures of a clip."""
    limits = (
        f"Write in the language with the code '{settings.language}', {settings.minimum_words} to {settings.maximum_words} words in all."
    )
    rules = f"State only what can be seen; do not mention the frames, do not guess names, add no opinion. {limits}"
    start = f"These are {count} frames of one video clip, in the order of time. Describe the clip."
    if not settings.structured:
        return f"{start} Cover subject, appearance, motion, camera and background in one paragraph. {rules}"
    keys = "\n".join(f"- {name}: {what}" for name, what in PARTS.items())
    return f"{start} {rules} Answer with one JSON object with these keys, each a text:\n{keys}"


def schema(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    """`response_format` of an OpenAI-compatible server: an object with exactly these properties."""
    body = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": body}}


def caption_schema() -> dict[str, Any]:
    return schema("caption", {name: {"type": "string", "description": what} for name, what in PARTS.items()})


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in a model's answer, also inside a fence or between words. Raises ValueError when there is none, or one that is
    nested without end or holds what is no text."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise ValueError("no JSON object")
    try:
        tree = json.loads(text[start : end + 1])
        json.dumps(tree, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    if not isinstance(tree, dict):
        raise ValueError("no JSON object")
    return tree


def parse_parts(text: str) -> dict[str, str]:
    """The five parts, in order. Raises ValueError when the answer is not an object with these keys as text."""
    tree = parse_object(text)
    wrong = [name for name in PARTS if not isinstance(tree.get(name), str)]
    if wrong:
        raise ValueError(f"no text under {', '.join(wrong)}")
    return {name: " ".join(tree[name].split()) for name in PARTS}


def compose(parts: dict[str, str], settings: Captioning) -> str:
    """The full caption: subject, appearance, motion, camera, background as sentences; parts with nothing to say are left out."""
    said = {name: text for name, text in parts.items() if text.strip().lower().rstrip(".") not in NOTHING}
    opening = OPENING.get(settings.language, "")
    subject = said.pop("subject", "")
    if subject and opening and not subject.lower().startswith("this video"):
        subject = opening + _lower_first(subject)
    return " ".join(_sentence(text) for text in (subject, *said.values()) if text)


def with_score(caption: str, aesthetic: float | None) -> str:
    """The caption with the release's suffix ` aesthetic score: 6.0.`; unchanged when the score was not measured or stands there."""
    return caption if aesthetic is None or _SCORE.search(caption) else f"{caption} aesthetic score: {aesthetic:.1f}."


def _lower_first(text: str) -> str:
    """First letter small where an article or number word stands first; a name keeps its capital."""
    return text[0].lower() + text[1:] if text.split()[0].lower() in _SMALL else text


def _sentence(text: str) -> str:
    text = text.strip()
    return (text[0].upper() + text[1:]) + ("" if text.endswith(_END) else ".")
