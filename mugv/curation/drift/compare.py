"""The comparison of a clip set with another: sources, every column, what drifted beyond the recipe's limits and beyond chance."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mugv.curation.drift.manifest import Manifest
from mugv.curation.drift.statistics import Distance, Sample, Term, compare_categories, compare_numbers, compare_terms
from mugv.figures import number
from mugv.recipe.retrain import CATEGORIES, NUMBERS, TERMS, Drift

LIMITS = {"psi": 0.25, "ks": 0.2}
TERMS_COMPARED = 200
CATEGORIES_SHOWN = 20
NAMES_KEPT = 200
"""Of added or removed sources, and of new words, in the JSON; the counts are whole."""
HISTOGRAM = 24
OTHER = "(others)"


@dataclass(frozen=True)
class Sources:
    """Source files of the new data against the old. Names, sorted, at most NAMES_KEPT of each."""

    old: int
    new: int
    counts: dict[str, int]
    """added, removed, changed (same name, other content), renamed (other name, same content), recaptioned, unchanged."""
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        told = [f"{count:,} {what}" for what, count in self.counts.items() if count and what != "unchanged"]
        return f"{self.old:,} -> {self.new:,} sources: {', '.join(told) or 'none added or removed'}"


@dataclass(frozen=True)
class Column:
    """A column of both clip sets."""

    name: str
    rows: tuple[int, int]
    """Measured, old and new."""
    distance: Distance | None = None
    """None: not compared; `note` says why."""
    limit: float = 0.0
    drifted: bool = False
    detail: str = ""
    note: str = ""
    shares: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    """Of a histogram's bins, or of terms, old and new."""
    labels: list[str] = field(default_factory=list)
    """Of the shares: names of terms, or the two ends of the histogram."""

    def measure(self, score: str) -> float:
        return 0.0 if self.distance is None else self.distance.psi if score == "psi" else self.distance.ks

    def bound(self, score: str) -> float:
        return 0.0 if self.distance is None else self.distance.psi_bound if score == "psi" else self.distance.ks_bound


@dataclass(frozen=True)
class Comparison:
    """Everything that was found. `columns`: the worst first."""

    digest: str
    """Of exactly these two manifests and whose they are: what `mugv confirm` names."""
    champion: str
    same: bool
    rows: tuple[int, int]
    candidates: tuple[int, int]
    sources: Sources
    columns: list[Column]
    new_words: list[tuple[str, int]]
    lost_words: list[tuple[str, int]]
    score: str
    significance: float
    enough_rows: bool
    notes: list[str]

    @property
    def drifted(self) -> list[Column]:
        return [column for column in self.columns if column.drifted]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(old: Path, new: Path, champion: str, settings: Drift) -> Comparison:
    """`old`, `new`: manifest.parquet of the champion's clip set and of the new one, with card.json beside them where it is known."""
    digests = [_file_digest(path) for path in (old, new)]
    left, right = Manifest(old), Manifest(new)
    level = settings.significance / len((*NUMBERS, *CATEGORIES, *TERMS))
    words = left.words(), right.words()
    found = [_numbers(name, left, right, level) for name in NUMBERS]
    found += [_categories(name, left, right, level) for name in CATEGORIES]
    found += [_terms("tags", left, right, left.tags(), right.tags(), level), _terms("words", left, right, *words, level)]
    columns = [column for column in found if column is not None]
    enough = min(left.rows, right.rows) >= settings.minimum_rows
    judged = [_judged(column, settings, enough) for column in columns]
    return Comparison(
        digest=hashlib.sha256(json.dumps([champion, *digests]).encode()).hexdigest()[:16],
        champion=champion,
        same=digests[0] == digests[1],
        rows=(left.rows, right.rows),
        candidates=(left.candidates, right.candidates),
        sources=compare_sources(left.source_digests(), right.source_digests()),
        columns=sorted(judged, key=lambda c: (not c.drifted, c.distance is None, -c.measure(settings.score) / c.limit, c.name)),
        new_words=_only_in(words[1], words[0]),
        lost_words=_only_in(words[0], words[1]),
        score=settings.score,
        significance=settings.significance,
        enough_rows=enough,
        notes=[*_row_note(left, right, settings, enough), *_threshold_notes(old, new)],
    )


def compare_sources(old: Mapping[str, str], new: Mapping[str, str], recaptioned: int = 0) -> Sources:
    """Names with the digests of their contents."""
    contents = Counter(old.values()) - Counter(new[name] for name in new if name in old)
    added, renamed = [], 0
    for name in sorted(new.keys() - old.keys()):
        if contents[new[name]] > 0:
            contents[new[name]] -= 1
            renamed += 1
        else:
            added.append(name)
    changed = sorted(name for name in new.keys() & old.keys() if new[name] != old[name])
    held = set(new.values())
    removed = sorted(name for name in old.keys() - new.keys() if old[name] not in held)
    unchanged = len(new) - len(added) - renamed - len(changed)
    counts = {"added": len(added), "removed": len(removed), "changed": len(changed), "renamed": renamed}
    counts |= {"recaptioned": recaptioned, "unchanged": unchanged}
    return Sources(len(old), len(new), counts, added[:NAMES_KEPT], removed[:NAMES_KEPT], changed[:NAMES_KEPT])


def _judged(column: Column, settings: Drift, enough: bool) -> Column:
    limit = settings.limits.get(column.name, settings.limit or LIMITS[settings.score])  # type: ignore[call-overload]
    far = column.measure(settings.score) > max(limit, column.bound(settings.score))
    return replace(column, limit=limit, drifted=enough and column.distance is not None and far)


def _numbers(name: str, left: Manifest, right: Manifest, level: float) -> Column | None:
    """None where neither side measured it. `level`: significance of this column alone."""
    old, new = left.number(name), right.number(name)
    rows = (0 if old is None else len(old.finite), 0 if new is None else len(new.finite))
    if not any(rows):
        return None
    if old is None or new is None or not all(rows):
        return Column(name, rows, note=_absent(rows, old is None or new is None))
    both = np.concatenate([old.finite, new.finite])
    if not old.missing and not new.missing and both.min() == both.max():
        return Column(name, rows, note=f"always {number(float(both[0]))}")
    middle = [float(np.median(side.finite)) for side in (old, new)]
    detail = f"median {number(middle[0])} -> {number(middle[1])}"
    if old.missing or new.missing:
        detail += f", not measured {_percent(old.missing, len(old.values))} -> {_percent(new.missing, len(new.values))}"
    shares, labels = _histogram(old, new)
    return Column(name, rows, compare_numbers(old, new, level), detail=detail, shares=shares, labels=labels)


def _categories(name: str, left: Manifest, right: Manifest, level: float) -> Column | None:
    old, new = left.categories(name), right.categories(name)
    rows = (sum((old or {}).values()), sum((new or {}).values()))
    if not any(rows):
        return None
    if old is None or new is None or not all(rows):
        return Column(name, rows, note=_absent(rows, old is None or new is None))
    if len(old.keys() | new.keys()) == 1:
        return Column(name, rows, note=f"always {next(iter(old))}")
    terms, of_all = _few(old, new), name == "rejected"
    distance = compare_categories(terms, (left.effective(of_all), right.effective(of_all)), level)
    return _term_column(name, rows, distance, terms, max(terms, key=lambda t: _change(t, rows)))


def _terms(name: str, left: Manifest, right: Manifest, old: Counter[str] | None, new: Counter[str] | None, level: float) -> Column | None:
    rows = left.rows, right.rows
    if not old and not new:
        return None
    if not old or not new:
        return Column(name, rows, note=_absent((len(old or ()), len(new or ())), old is None or new is None))
    shared = {term: old[term] / rows[0] + new[term] / rows[1] for term in old.keys() | new.keys()}
    terms = [Term(t, old[t], new[t]) for t in sorted(shared, key=lambda t: (-shared[t], t))[:TERMS_COMPARED]]
    distance, most = compare_terms(terms, rows, (left.effective(), right.effective()), level)
    terms = sorted(terms, key=lambda t: -_change(t, rows))[:CATEGORIES_SHOWN]
    return _term_column(name, rows, distance, terms, most)


def _term_column(name: str, rows: tuple[int, int], distance: Distance, terms: list[Term], most: Term) -> Column:
    shares = [t.old / rows[0] for t in terms], [t.new / rows[1] for t in terms]
    detail = f"{most.name} {_percent(most.old, rows[0])} -> {_percent(most.new, rows[1])}"
    return Column(name, rows, distance, detail=detail, shares=shares, labels=[t.name for t in terms])


def _change(term: Term, rows: tuple[int, int]) -> float:
    return abs(term.new / rows[1] - term.old / rows[0])


def _absent(rows: Iterable[int], column: bool) -> str:
    old, new = rows
    whose = "the champion's clips" if not old else "the new clips" if not new else "one side"
    return f"not compared: {whose} {'lack the column' if column else 'have no values'}"


def _few(old: Counter[str], new: Counter[str]) -> list[Term]:
    """The most frequent categories, and all others as one."""
    names = [name for name, _ in (old + new).most_common()]
    shown = [Term(name, old[name], new[name]) for name in names[:CATEGORIES_SHOWN]]
    rest = [sum(side[name] for name in names[CATEGORIES_SHOWN:]) for side in (old, new)]
    return [*shown, Term(OTHER, *rest)] if any(rest) else shown


def _histogram(old: Sample, new: Sample) -> tuple[tuple[list[float], list[float]], list[str]]:
    """Between the outermost half per cents of both; what lies beyond counts at the ends."""
    ends = [np.quantile(side.finite, (0.005, 0.995)) for side in (old, new)]
    low, high = min(ends[0][0], ends[1][0]), max(ends[0][1], ends[1][1])
    edges = np.linspace(low, high, HISTOGRAM + 1) if high > low else np.array([low - 0.5, low + 0.5])
    counts = [np.histogram(np.clip(side.finite, edges[0], edges[-1]), edges)[0] / len(side.finite) for side in (old, new)]
    return (counts[0].tolist(), counts[1].tolist()), [number(float(low)), number(float(high))]


def _only_in(these: Counter[str] | None, those: Counter[str] | None) -> list[tuple[str, int]]:
    """Words of at least two captions that the other side lacks."""
    if not these or not those:
        return []
    return [(word, count) for word, count in these.most_common() if count > 1 and word not in those][:NAMES_KEPT]


def _percent(count: int, rows: int) -> str:
    share = 100 * count / rows if rows else 0.0
    return f"{share:.0f} %" if share >= 10 or not share else f"{share:.2g} %"


def _row_note(left: Manifest, right: Manifest, settings: Drift, enough: bool) -> list[str]:
    if enough:
        return []
    few = f"{left.rows:,} and {right.rows:,} clips: with fewer than {settings.minimum_rows:,} on either side drift holds nothing back"
    return [f"{few} (retrain.drift.minimum_rows)"]


def _threshold_notes(old: Path, new: Path) -> list[str]:
    """Where the recipe's thresholds are others than the champion's: then the clips differ by intention."""
    cards = [_card(path) for path in (old, new)]
    if not all(cards):
        return []
    sides = [card.get("thresholds", {}) for card in cards]
    names = sorted(name for name in sides[0].keys() | sides[1].keys() if sides[0].get(name) != sides[1].get(name))
    return [f"the thresholds of {', '.join(names)} are others than the champion's"] if names else []


def _card(manifest: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((manifest.parent / "card.json").read_text()))
    except (OSError, ValueError):
        return {}


def _file_digest(path: Path) -> str:
    from mugv.errors import UserError

    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); a clip set has manifest.parquet") from None
