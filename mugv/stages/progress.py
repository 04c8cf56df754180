"""How a stage in a process of its own shows progress: a small file that `mugv run` draws, and a plain line now and then."""

from __future__ import annotations

import time

from mugv.platform.records import RunRecord

FILE_SECONDS = 0.5
LINE_SECONDS = 15.0


class ProgressWriter:
    """A StageContext.progress callback: progress(done, total, values)."""

    def __init__(self, record: RunRecord, node: str) -> None:
        self.record = record
        self.node = node
        self._first: tuple[float, int] | None = None
        self._file_at = 0.0
        self._line_at = time.monotonic()

    def __call__(self, done: int, total: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        self._first = self._first or (now, done)
        if now - self._file_at >= FILE_SECONDS or done == total:
            self._file_at = now
            self.record.write_progress(self.node, done, total, {k: float(v) for k, v in values.items()})
        if now - self._line_at >= LINE_SECONDS:
            self._line_at = now
            print(describe(self.node, done, total, values, *self._rate(now, done, total)), flush=True)

    def _rate(self, now: float, done: int, total: int) -> tuple[float, float]:
        """Steps a second since the first call, and the seconds that remain at that rate."""
        began, first = self._first or (now, done)
        rate = (done - first) / (now - began) if now > began else 0.0
        return rate, (total - done) / rate if rate else 0.0


def describe(node: str, done: int, total: int, values: dict[str, float], rate: float, remaining: float) -> str:
    """One line: `pretrain-0 120/900 loss 0.4123, 3.1/s, 4:12 left`."""
    shown = ", ".join(f"{name} {value:.4g}" for name, value in list(values.items())[:3])
    minutes, seconds = divmod(int(remaining), 60)
    return f"{node} {done}/{total} {shown}{', ' if shown else ''}{rate:.2g}/s, {minutes}:{seconds:02d} left"
