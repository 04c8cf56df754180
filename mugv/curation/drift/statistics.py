"""Two samples of one column: population stability index, Kolmogorov-Smirnov, and how much of either chance explains.

PSI = sum over bins of (q - p) ln(q / p), with p and q the shares of the old and the new sample (N. Siddiqi, Credit Risk Scorecards, 2006).
Without drift it is distributed as (1/n + 1/m) chi-squared with bins - 1 degrees of freedom (B. Yurdakul, J. Naranjo, Statistical
properties of the population stability index, J. Risk Model Validation 14(4), 2020): on small samples it is large by chance alone.

Clips of one source are alike, so n and m are *effective* rows: rows / (1 + (size of a source - 1) ICC), with the intraclass correlation ICC
of the column's ranks (L. Kish, Survey Sampling, 1965).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10
SMOOTHING = 0.5
"""Added to every count, so that an empty bin has a logarithm."""


@dataclass(frozen=True)
class Sample:
    """A column of one clip set. `values`: float64 [rows], NaN where not measured; `sources`: int [rows], which source a row is from."""

    values: np.ndarray
    sources: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        return self.values[np.isfinite(self.values)]

    @property
    def missing(self) -> int:
        return len(self.values) - len(self.finite)


@dataclass(frozen=True)
class Distance:
    """How far apart two samples are, and how far they would be by chance."""

    effective: tuple[float, float]
    """Independent rows' worth of rows, old and new."""
    psi: float
    psi_expected: float
    """Mean without drift."""
    psi_bound: float
    """What equal data exceed in a share `significance` of all cases."""
    ks: float
    ks_bound: float
    p: float
    """Of the Kolmogorov-Smirnov test, or of the term that changed most."""


def effective_rows(sources: np.ndarray, values: np.ndarray | None = None) -> float:
    """Independent rows' worth of rows that come in sources; without values: as if the clips of a source were all the same."""
    if not len(sources):
        return 0.0
    sizes = np.bincount(sources).astype(float)
    sizes = sizes[sizes > 0]
    alike = 1.0 if values is None else intraclass(sources, values)
    return float(sizes.sum() / (1 + ((sizes**2).sum() / sizes.sum() - 1) * alike))


def intraclass(sources: np.ndarray, values: np.ndarray) -> float:
    """ICC of the values' ranks by one-way analysis of variance, 0 to 1."""
    from scipy.stats import rankdata

    sizes = np.bincount(sources).astype(float)
    present = sizes > 0
    groups, rows = int(present.sum()), len(values)
    if groups == 1:
        return 1.0
    if groups == rows:
        return 0.0
    ranks = rankdata(values) - (rows + 1) / 2
    means = np.bincount(sources, ranks)[present] / sizes[present]
    between = float((sizes[present] * means**2).sum()) / (groups - 1)
    within = max(0.0, float((ranks**2).sum()) - between * (groups - 1)) / (rows - groups)
    size = (rows - float((sizes**2).sum()) / rows) / (groups - 1)
    whole = between + (size - 1) * within
    return min(1.0, max(0.0, (between - within) / whole)) if whole > 0 else 0.0


def edges_of(old: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bounds of bins (a, b] with equal shares of `old`; a value that fills a bin alone has one of its own, so a shift either way shows."""
    cuts = np.quantile(old, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
    values, counts = np.unique(cuts, return_counts=True)
    alone = values[counts > 1] if len(values) > 1 else values
    return np.unique(np.concatenate([values, np.nextafter(alone, -np.inf)]))


def counts_of(sample: Sample, edges: np.ndarray) -> np.ndarray:
    """Rows in each bin; the last one: not measured."""
    found = np.bincount(np.searchsorted(edges, sample.finite, side="left"), minlength=len(edges) + 1)
    return np.append(found, sample.missing)


def psi(old: np.ndarray, new: np.ndarray) -> float:
    """Of counts [bins]."""
    p, q = ((counts + SMOOTHING) / (counts.sum() + SMOOTHING * len(counts)) for counts in (old, new))
    return float(((q - p) * np.log(q / p)).sum())


def compare_numbers(old: Sample, new: Sample, significance: float) -> Distance:
    """Both need at least one value."""
    from scipy.special import chdtri
    from scipy.stats import ks_2samp, kstwo

    edges = edges_of(old.finite)
    counts = counts_of(old, edges), counts_of(new, edges)
    used = (counts[0] + counts[1]) > 0
    rows = [effective_rows(s.sources[np.isfinite(s.values)], s.finite) for s in (old, new)]
    unit, freedom = 1 / rows[0] + 1 / rows[1], max(1, int(used.sum()) - 1)
    distance = float(ks_2samp(old.finite, new.finite, method="asymp").statistic)
    independent = max(1, round(1 / unit))
    return Distance(
        effective=(rows[0], rows[1]),
        psi=psi(counts[0][used], counts[1][used]),
        psi_expected=freedom * unit,
        psi_bound=float(chdtri(freedom, significance)) * unit,
        ks=distance,
        ks_bound=float(kstwo.isf(significance, independent)),
        p=float(kstwo.sf(distance, independent)),
    )


@dataclass(frozen=True)
class Term:
    """A tag, word or category: the rows that have it."""

    name: str
    old: int
    new: int


def compare_terms(
    terms: Sequence[Term], rows: tuple[int, int], effective: tuple[float, float], significance: float
) -> tuple[Distance, Term]:
    """Of the term whose share of the rows changed most for chance, and that term. `terms` is not empty."""
    from scipy.special import chdtri, erfc

    unit = 1 / effective[0] + 1 / effective[1]
    old, new = (np.array([getattr(t, side) for t in terms], float) for side in ("old", "new"))
    each = np.array([psi(np.array([a, rows[0] - a]), np.array([b, rows[1] - b])) for a, b in zip(old, new, strict=True)])
    k = int(each.argmax())
    level = significance / len(terms)
    pooled = float(old[k] * effective[0] / rows[0] + new[k] * effective[1] / rows[1]) / sum(effective)
    difference = abs(float(new[k] / rows[1] - old[k] / rows[0]))
    deviation = max((pooled * (1 - pooled) * unit) ** 0.5, 1e-12)
    bound = float(chdtri(1, level))
    p = min(1.0, float(erfc(difference / deviation / 2**0.5)) * len(terms))
    return Distance(effective, float(each[k]), unit, bound * unit, difference, bound**0.5 * deviation, p), terms[k]


def compare_categories(terms: Sequence[Term], effective: tuple[float, float], significance: float) -> Distance:
    """Of categories that exclude each other; KS: the largest difference of one's share."""
    from scipy.special import chdtri

    old, new = (np.array([getattr(t, side) for t in terms], float) for side in ("old", "new"))
    rows = int(old.sum()), int(new.sum())
    unit, freedom = 1 / effective[0] + 1 / effective[1], max(1, len(terms) - 1)
    by_term, _ = compare_terms(terms, rows, effective, significance)
    differences = np.abs(new / rows[1] - old / rows[0])
    bound = float(chdtri(freedom, significance)) * unit
    return Distance(effective, psi(old, new), freedom * unit, bound, float(differences.max()), by_term.ks_bound, by_term.p)
