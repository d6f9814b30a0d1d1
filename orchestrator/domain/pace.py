"""How long work really takes, by kind of engine, where that differs much from what was predicted.

For a model of unknown shape a prediction only orders the shards; how many engines are worth their load is then for the
campaign's own record to say. Predictions that are about right are left alone: what a kind has shown so far says little
about the cells that it has not reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TRUSTED = 1.35
"""A prediction off by less than this factor, either way, is kept."""
DOUBT_SECONDS = 1800.0
"""Of predicted work for each engine, taken to be right beforehand: outcomes come a batch later than the time that they
took. Never more than a tenth of a kind's work."""


@dataclass(slots=True)
class _Record:
    whole: float
    """Predicted seconds left when the kind was first seen."""
    left: float
    most_engines: int = 0
    spent: float = 0.0
    done: float = 0.0

    @property
    def doubt(self) -> float:
        return min(DOUBT_SECONDS * self.most_engines, 0.1 * self.whole)


class Pace:
    """Engine seconds spent against predicted seconds done; the moments at which it is told lie close together."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._noted_at: float | None = None

    def note(self, left: Mapping[str, float], working: Mapping[str, int], now: float) -> None:
        """By kind: predicted seconds left, and engines with work since the last time that have told outcomes."""
        passed = 0.0 if self._noted_at is None else max(0.0, now - self._noted_at)
        self._noted_at = now
        for key, seconds in left.items():
            if key not in self._records:
                self._records[key] = _Record(seconds, seconds)
            record = self._records[key]
            record.most_engines = max(record.most_engines, working.get(key, 0))
            record.spent += passed * working.get(key, 0)
            record.done += max(0.0, record.left - seconds)
            record.left = seconds

    def factor(self, key: str) -> float:
        """On the predicted seconds that are left."""
        record = self._records.get(key)
        if record is None or record.doubt <= 0:
            return 1.0
        found = (record.spent + record.doubt) / (record.done + record.doubt)
        return 1.0 if 1 / TRUSTED < found < TRUSTED else found
