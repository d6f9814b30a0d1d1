"""Numbers as a person reads them. Every function returns one short line without control characters."""

from __future__ import annotations

import unicodedata
from datetime import datetime

ABSENT = "–"


def clean(text: str) -> str:
    """`text` on one line, without control characters, so that a failure's message cannot steer the terminal."""
    flat = " ".join(text.split())
    return "".join(c for c in flat if unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs"))


def count(number: int) -> str:
    """`1234567` → `1,234,567`."""
    return f"{number:,}"


def short_count(number: float) -> str:
    """`1234567` → `1.23M`: at most five characters."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            return f"{number / size:.3g}{unit}" if number < size * 999.5 else f"{number / size:.0f}{unit}"
    return f"{number:.0f}"


def percent(share: float | None, digits: int = 0) -> str:
    """`0.452` → `45 %`. Less than all never reads as 100, more than nothing never as 0."""
    if share is None:
        return ABSENT
    step = 10.0**-digits
    value = round(share * 100, digits)
    if 0 < share < step / 100:
        return f"<{step:.{digits}f} %"
    if share < 1 and value >= 100:
        value = 100 - step
    return f"{value:.{digits}f} %"


def rate(per_second: float | None, noun: str) -> str:
    """Events a second, minute or hour: whichever gives a number above one."""
    if per_second is None:
        return f"{ABSENT} {noun}/s"
    if per_second == 0:
        return f"0 {noun}/s"
    for seconds, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if per_second * seconds >= 1 or unit == "h":
            value = per_second * seconds
            return f"{value:,.0f} {noun}/{unit}" if value >= 100 else f"{value:.3g} {noun}/{unit}"
    raise AssertionError("unreachable")


def duration(seconds: float | None) -> str:
    """`93784` → `1 d 2 h`: the two largest units."""
    if seconds is None:
        return ABSENT
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole % 86400 // 3600, whole % 3600 // 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    if minutes:
        return f"{minutes} min {whole % 60:02d} s"
    return f"{whole} s"


def duration_range(low: float, high: float) -> str:
    """Two durations as one interval; one when they read the same."""
    first, last = duration(low), duration(high)
    return first if first == last else f"{first} – {last}"


def clock(at: datetime) -> str:
    """Time of day, UTC."""
    return at.strftime("%H:%M:%S")


def length(tokens: int) -> str:
    """A context length: `131072` → `128k`, `2000` → `2000`."""
    return f"{tokens // 1024}k" if tokens and tokens % 1024 == 0 else str(tokens)
