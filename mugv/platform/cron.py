"""Kubeflow Pipelines' cron expressions: six fields, seconds first, as its scheduler (robfig/cron) reads them."""

from __future__ import annotations

from calendar import monthrange

from mugv.errors import UserError

FIELDS = (("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 6))
_NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "day of week": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
LEAP = 2028


def check_cron(expression: str) -> None:
    """Raise UserError unless `expression` has the six fields of a KFP schedule, every value is in range, and it fires at all."""
    fields = expression.split()
    if len(fields) != len(FIELDS):
        hint = f'; KFP counts seconds first: "0 {expression.strip()}"' if len(fields) == 5 else ""
        raise UserError(f"cron {expression!r}: expected 6 fields (second minute hour day month weekday), got {len(fields)}{hint}")
    for text, (name, low, high) in zip(fields, FIELDS, strict=True):
        for item in text.split(","):
            if not _valid(item, name, low, high):
                raise UserError(f"cron {expression!r}: {name} {item!r} is not *, ?, a value from {low} to {high}, a range or a step")
    _, _, _, days, months, weekdays = fields
    if not _fires(days, months, weekdays):
        raise UserError(f"cron {expression!r}: never fires: no month of {months} has a day of {days}")


def _fires(days: str, months: str, weekdays: str) -> bool:
    """A day of the month and a day of the week that are both given count as either; `*` and `?` give none."""
    if days[0] in "*?" or weekdays[0] not in "*?":
        return True
    longest = max(monthrange(LEAP, month)[1] for month in _values(months, "month", 1, 12))
    return min(_values(days, "day of month", 1, 31)) <= longest


def _values(text: str, name: str, low: int, high: int) -> set[int]:
    """The values of a valid field; `5/10` is every tenth from 5 on."""
    found: set[int] = set()
    for item in text.split(","):
        span, slash, step = item.partition("/")
        first, dash, last = span.partition("-")
        start = low if span in ("*", "?") else _value(first, name, low) or low
        end = (_value(last, name, low) or high) if dash else high if slash or span in ("*", "?") else start
        found.update(range(start, end + 1, int(step or 1)))
    return found


def _valid(item: str, name: str, low: int, high: int) -> bool:
    span, slash, step = item.partition("/")
    if slash and not (step.isascii() and step.isdigit() and int(step) > 0):
        return False
    if span == "*" or (span == "?" and name.startswith("day") and not slash):
        return True
    first, dash, last = span.partition("-")
    values = [_value(text, name, low) for text in ([first, last] if dash else [first])]
    return all(v is not None and low <= v <= high for v in values) and values == sorted(values, key=lambda v: v or 0)


def _value(text: str, name: str, low: int) -> int | None:
    names = _NAMES.get(name, [])
    if text.lower() in names:
        return names.index(text.lower()) + low
    return int(text) if text.isascii() and text.isdigit() else None
