"""Is a model's caption one? Empty, refusal, loop, length, language. A refused caption is asked again; the last one decides."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mugv.recipe.curation import Captioning

_REFUSALS = re.compile(
    r"(?:^|[.!?\n]\s*|\b(?:but|however|and),? )(?:"
    r"i(?:'m| am) (?:very |so |really )?(?:sorry|unable|not able|afraid)|i (?:can't|cannot|can not|won't|will not|do not|don't) "
    r"|i apologi[sz]e|sorry, |unfortunately, i |as an ai\b|my apologies"
    r"|es tut mir leid|ich kann (?:leider )?(?:nicht|kein)|je suis désolé|je ne peux pas|lo siento|no puedo |desculpe|mi dispiace"
    r"|извините|я не могу|抱歉|对不起|很抱歉|我无法|我不能|申し訳|죄송)"
    r"|\bno (?:image|images|video|frames|pictures) (?:was|were|have been|has been) (?:provided|attached|uploaded|given)"
    r"|\b(?:unable|not able) to (?:view|process|see|analy[sz]e|assist|describe|access) (?:the |this |these |any )?"
    r"(?:image|images|video|frames|pictures|content|request)",
    re.IGNORECASE,
)
UNSPACED = ("Han", "Japanese", "Thai")
"""Scripts that do not part words by spaces: two characters count as a word."""
_SCRIPTS = {
    "LATIN": "Latin",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic",
    "HEBREW": "Hebrew",
    "DEVANAGARI": "Devanagari",
    "HANGUL": "Hangul",
    "THAI": "Thai",
    "CJK": "Han",
    "HIRAGANA": "Kana",
    "KATAKANA": "Kana",
}
LEAST_SHARE = 0.7
"""Of the letters, in the script of the language."""
FEW_WORDS = 8
"""Of fewer words, the script alone tells the language."""
LOOP = 5
"""As many times the same four words: the model went in circles."""


def check(caption: str, settings: Captioning) -> str:
    """Why the caption is refused, such as `too long: 300 words, at most 260`; empty when it is fine. What stands before `:` is the kind."""
    if not caption.strip():
        return "empty"
    if is_refusal(caption):
        return f"refusal: {_shortened(caption)}"
    words = count_words(caption)
    if words > settings.maximum_words:
        return f"too long: {words} words, at most {settings.maximum_words}"
    if words < settings.minimum_words:
        return f"too short: {words} words, at least {settings.minimum_words}"
    if _loops(caption):
        return f"repeats itself: {_shortened(caption)}"
    return wrong_language(caption, settings.language)


def is_refusal(text: str) -> bool:
    """The model says that it will not or cannot, instead of describing."""
    return bool(_REFUSALS.search(text.strip()))


def count_words(text: str) -> int:
    """Words parted by spaces, and half the characters of scripts that do not part them."""
    characters = [c for c in text if _script(c) in {"Han", "Kana", "Thai"}]
    spaced = "".join(" " if _script(c) in {"Han", "Kana", "Thai"} else c for c in text)
    return len(re.findall(r"\w+(?:['’\-]\w+)*", spaced)) + (len(characters) + 1) // 2


def wrong_language(text: str, language: str) -> str:
    """Empty when the text may be in the language: by its script and, for languages of one script, by their commonest words."""
    known = _languages()
    scripts = Counter(s for s in map(_script, text) if s)
    letters = sum(scripts.values())
    if not letters:
        return "wrong language: no letters"
    script = known[language]["script"]
    own = sum(scripts[name] for name in (("Han", "Kana") if script == "Japanese" else (script,)))
    if own < LEAST_SHARE * letters or (script == "Japanese" and not scripts["Kana"]):
        most = max(scripts, key=lambda s: scripts[s])
        return f"wrong language: {most} letters, expected {script} for {language}"
    words = re.findall(r"[^\W\d_]+", text.lower())
    if len(words) < FEW_WORDS or not known[language]["words"]:
        return ""
    return _other_words(words, language)


def _other_words(words: list[str], language: str) -> str:
    """Another language's common words outnumber those of the expected one, or none of those is there."""
    counts = {code: sum(word in facts["words"] for word in words) for code, facts in _languages().items() if facts["words"]}
    best = max(counts, key=lambda code: (counts[code], code == language))
    if counts[best] > counts[language] * 1.25 + 1:
        return f"wrong language: {best} by its words, expected {language}"
    if len(words) >= 3 * FEW_WORDS and not counts[language]:
        return f"wrong language: no common word of {language} among {len(words)}"
    return ""


def _loops(text: str) -> bool:
    words = text.lower().split()
    runs = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return bool(runs) and max(runs.values()) >= LOOP


@cache
def _script(character: str) -> str:
    """Script of a letter; empty for anything else."""
    if not character.isalpha():
        return ""
    name = unicodedata.name(character, "").split(" ")[0].split("-")[0]
    return _SCRIPTS.get(name, name.capitalize())


@cache
def _languages() -> dict[str, dict[str, Any]]:
    tree = yaml.safe_load((Path(__file__).parent / "languages.yaml").read_text(encoding="utf-8"))
    return {code: {"script": facts["script"], "words": frozenset(facts["words"])} for code, facts in tree.items()}


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
