"""A clip set's manifest, read by columns: never more than one column of it is in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mugv.curation.drift.statistics import Sample, effective_rows
from mugv.errors import UserError

BATCH = 1 << 16
VOCABULARY = 1 << 19
"""Words beyond which those seen once are forgotten: captions may hold random text."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
KEPT = "kept"


class Manifest:
    """The rows that training reads (kept, or scored where nothing was dropped), and of all rows the reasons. Raises UserError for
    what is no manifest. Columns that an older manifest lacks are None."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
            self.names = frozenset(self._file.schema_arrow.names)
            self._wanted = self._read("status").to_numpy(zero_copy_only=False) != "rejected"
            self._all_sources = self._codes()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise UserError(f"{path}: not the manifest of a clip set ({str(error).splitlines()[0][:100]})") from None
        self.sources = self._all_sources[self._wanted]
        self.candidates, self.rows = len(self._wanted), int(self._wanted.sum())

    def _read(self, name: str) -> pa.ChunkedArray:
        return self._file.read(columns=[name])[name]

    def _codes(self) -> np.ndarray:
        codes = self._read("source").combine_chunks().dictionary_encode()
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        return np.asarray(codes.indices.fill_null(0))

    def _column(self, name: str) -> pa.ChunkedArray:
        return self._read(name).filter(pa.array(self._wanted))

    def number(self, name: str) -> Sample | None:
        """A score, or `seconds` or `caption_words`, which follow from other columns."""
        needed = {"seconds": ("start_seconds", "end_seconds"), "caption_words": ("caption",)}.get(name, (name,))
        if not self.names.issuperset(needed):
            return None
        if name == "caption_words":
            return Sample(np.array([float(len(_WORD.findall(text))) for text in self._captions()]), self.sources)
        values = [_floats(self._column(column)) for column in needed]
        return Sample(values[1] - values[0] if name == "seconds" else values[0], self.sources)

    def categories(self, name: str) -> Counter[str] | None:
        """Value -> rows; `size` is width x height, `rejected` the reason, or `kept`, of every candidate."""
        if not self.names.issuperset({"size": ("width", "height"), "rejected": ("reason",)}.get(name, (name,))):
            return None
        if name == "size":
            sides = [self._column(side).cast(pa.string()) for side in ("width", "height")]
            values = pc.binary_join_element_wise(*sides, "x")
        elif name == "rejected":
            reasons = self._read("reason")
            values = pc.if_else(pa.chunked_array([pa.array(self._wanted)]), KEPT, reasons)
        else:
            values = self._column(name)
        return Counter({str(v["values"] or "not stated"): v["counts"] for v in pc.value_counts(values).to_pylist()})

    def tags(self) -> Counter[str] | None:
        if "tags" not in self.names:
            return None
        return Counter({v["values"]: v["counts"] for v in pc.value_counts(pc.list_flatten(self._column("tags"))).to_pylist()})

    def words(self) -> Counter[str] | None:
        """Word -> clips whose caption has it."""
        if "caption" not in self.names:
            return None
        found: Counter[str] = Counter()
        for text in self._captions():
            found.update({word.lower() for word in _WORD.findall(text)})
            if len(found) > VOCABULARY:
                found = Counter({word: count for word, count in found.items() if count > 1})
        return found

    def effective(self, of_all: bool = False) -> float:
        """Rows' worth of rows, where a source counts once: for what the clips of a source share."""
        return effective_rows(self._all_sources if of_all else self.sources)

    def source_digests(self) -> dict[str, str]:
        """Source -> digest of its contents."""
        if not {"source", "source_digest"} <= self.names:
            return {}
        table = self._file.read(columns=["source", "source_digest"]).group_by("source").aggregate([("source_digest", "min")])
        return dict(zip(table["source"].to_pylist(), table["source_digest_min"].to_pylist(), strict=True))

    def _captions(self) -> Iterator[str]:
        start = 0
        for batch in self._file.iter_batches(BATCH, columns=["caption"]):
            wanted = pa.array(self._wanted[start : start + len(batch)])
            start += len(batch)
            for text in batch.column(0).filter(wanted).to_pylist():
                yield text or ""


def _floats(column: Any) -> np.ndarray:
    values = np.asarray(column.cast(pa.float64()).fill_null(np.nan).to_numpy(), np.float64)
    return np.where(np.isfinite(values), values, np.nan)
