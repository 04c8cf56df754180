"""Tags by a word list: every subject, action and scene that a caption names, with the group that it belongs to.

English only. What a caption denies ("no people", "without a car") is no tag, and a word that may be noun or verb ("the park",
"parks his car") is told apart by the word before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from mugv.recipe.curation import Tags

KINDS = ("subject", "action", "scene")
LONGEST = 3
"""Words of the longest entry."""
_TOKENS = re.compile(r"[a-zé]+(?:'[a-z]+)?|[.,;:!?()]")
_DENIES = {"no", "not", "without", "neither", "nor", "never"}
_DENIED_WORDS = 6
_ARTICLES = {"a", "an", "the", "his", "her", "its", "their", "my", "your", "this", "that", "these", "those", "some", "of", "each", "every"}
_BEFORE_VERBS = {"is", "are", "was", "were", "be", "being", "been", "to", "and", "then", "who", "which", "he", "she", "it", "they", "while"}
_DOUBLED = re.compile(r"[^aeiou][aeiou][bdgmnprt]$")
_NEVER_DOUBLED = {"open", "enter", "travel", "flutter", "flicker", "whisper", "listen", "happen"}


@dataclass(frozen=True)
class _Words:
    nouns: dict[str, tuple[str, ...]]
    """Form -> its tags, as subject or scene."""
    verbs: dict[str, tuple[str, ...]]
    lemmas: dict[str, str]
    """Form -> `kind:lemma` for each kind."""
    groups: dict[str, str]
    """`kind:lemma` -> `kind:group`."""
    ignored: frozenset[str]


def tag(caption: str, settings: Tags | None = None) -> tuple[str, ...]:
    """`kind:word` of all that the caption names, sorted, each once; kind is subject, action or scene."""
    words = _words()
    found: set[str] = set()
    tokens = _TOKENS.findall(caption.lower())
    denied_until = place = 0
    while place < len(tokens):
        token = tokens[place]
        if token in _DENIES:
            denied_until = place + _DENIED_WORDS
        elif token in ".;:!?" or token == "but":
            denied_until = 0
        length, tags = _longest(words, tokens, place)
        if place >= denied_until:
            found.update(tags)
        place += length
    return tuple(sorted(found))


def normalise(kind: str, word: str) -> tuple[str, ...]:
    """Tags of a word that a model gave: its lemma with its group where the list knows it, else the word itself in small letters."""
    text = " ".join(re.findall(r"[^\W_]+", word.lower()))
    if not text:
        return ()
    words = _words()
    known = words.lemmas.get(f"{kind}:{text}", f"{kind}:{text}")
    return tuple(t for t in (known, words.groups.get(known)) if t)


def _longest(words: _Words, tokens: list[str], place: int) -> tuple[int, tuple[str, ...]]:
    """Length and tags of the longest entry that begins at `place`; (1, ()) when none does."""
    for length in range(min(LONGEST, len(tokens) - place), 0, -1):
        form = " ".join(tokens[place : place + length])
        if form in words.ignored:
            return length, ()
        before = tokens[place - 1] if place else ""
        tags = _meant(words, form, before)
        if tags:
            return length, tags
    return 1, ()


def _meant(words: _Words, form: str, before: str) -> tuple[str, ...]:
    noun, verb = words.nouns.get(form, ()), words.verbs.get(form, ())
    if noun and verb:
        as_verb = before in _BEFORE_VERBS or before in words.nouns or before.endswith("ly")
        return verb if as_verb else noun
    if verb and before in _ARTICLES and not form.endswith("ing"):
        return ()
    return noun or verb


@cache
def _words() -> _Words:
    tree = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
    nouns: dict[str, set[str]] = {}
    verbs: dict[str, set[str]] = {}
    lemmas: dict[str, str] = {}
    groups: dict[str, str] = {}
    for kind, group, forms in _entries(tree):
        name = forms[0].strip("!=")
        lemma = f"{kind}:{name}"
        of_group = set() if group == "other" or group == name else {f"{kind}:{group}"}
        groups.update((lemma, above) for above in of_group)
        for shape in {shape for form in forms for shape in _shapes(kind, form)}:
            (verbs if kind == "action" else nouns).setdefault(shape, set()).update({lemma, *of_group})
            lemmas.setdefault(f"{kind}:{shape}", lemma)
    return _Words(_fixed(nouns), _fixed(verbs), lemmas, groups, frozenset(tree["ignored"]))


def _fixed(found: dict[str, set[str]]) -> dict[str, tuple[str, ...]]:
    return {form: tuple(sorted(tags)) for form, tags in found.items()}


def _entries(tree: dict[str, dict[str, list[str]]]) -> list[tuple[str, str, list[str]]]:
    """(kind, group, forms) of every entry."""
    entries = [(kind, group, entry) for kind in KINDS for group, listed in tree[kind].items() for entry in listed]
    return [(kind, group, [form.strip() for form in entry.split(",")]) for kind, group, entry in entries]


def _shapes(kind: str, form: str) -> set[str]:
    """All that stands for a form; see words.yaml for the marks `!` and `=`."""
    if form.endswith("="):
        return {form[:-1]}
    plain = form.rstrip("!")
    shapes = _verb_shapes(plain) if kind == "action" else _noun_shapes(plain)
    return shapes - {plain} if form.endswith("!") else shapes


def _noun_shapes(form: str) -> set[str]:
    """A noun and its regular plural."""
    if form.endswith("y") and form[-2] not in "aeiou":
        return {form, f"{form[:-1]}ies"}
    return {form, f"{form}es" if form.endswith(("s", "x", "z", "ch", "sh")) else f"{form}s"}


def _verb_shapes(form: str) -> set[str]:
    """A verb with its regular -s, -ing and -ed."""
    if form.endswith("e") and not form.endswith(("ee", "ye")):
        stem = form[:-1]
    elif form not in _NEVER_DOUBLED and _DOUBLED.search(form):
        stem = form + form[-1]
    else:
        stem = form
    past = f"{form[:-1]}ied" if form.endswith("y") and form[-2] not in "aeiou" else f"{stem}ed"
    third = f"{form[:-1]}ies" if past.endswith("ied") else f"{form}es" if form.endswith(("s", "x", "z", "ch", "sh", "o")) else f"{form}s"
    ing = f"{form[:-2]}ying" if form.endswith("ie") else f"{stem}ing"
    return {form, third, ing, past}
