"""One score at a time: the threshold by two heaps, the kept set by one. O(n log n), O(support) scalars.

Adding a score can only raise f, so τ never falls: an entry goes saturated → fractional → dead and
never back. Each is popped at most twice. Equal scores: the older entry leaves the kept set first.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import NamedTuple

NEVER = 2**31 - 1
"""The end of an entry that is still kept when the stream ends."""


class StreamingThreshold:
    """τ of sparsek(z_1 … z_t, k) after every push."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.tau = -math.inf
        self.num_pops = 0
        self._saturated: list[float] = []
        self._fractional: list[float] = []
        self._sum = 0.0

    @property
    def num_fractional(self) -> int:
        """Entries whose gate is strictly between 0 and 1 (one that sits exactly at 1 may be counted)."""
        return len(self._fractional)

    @property
    def size(self) -> int:
        """Scalars held."""
        return len(self._saturated) + len(self._fractional)

    def push(self, score: float) -> float:
        """Adds a score and returns the new τ (−inf up to k entries)."""
        if score >= self.tau + 1:
            heapq.heappush(self._saturated, score)
        elif score > self.tau:
            heapq.heappush(self._fractional, score)
            self._sum += score
        if self.size > self.k:
            self._raise()
        return self.tau

    def _raise(self) -> None:
        while True:
            solved = self._solve()
            dies = self._fractional[0] if self._fractional else math.inf
            unsaturates = self._saturated[0] - 1 if self._saturated else math.inf
            if solved <= min(dies, unsaturates):
                self.tau = solved
                self._drop_dead()
                return
            self._pop(dies, unsaturates)

    def _drop_dead(self) -> None:
        while self._fractional and self._fractional[0] <= self.tau:
            self._sum -= heapq.heappop(self._fractional)
        if not self._fractional:
            self._sum = 0.0

    def _solve(self) -> float:
        if self._fractional:
            return (self._sum + len(self._saturated) - self.k) / len(self._fractional)
        return self.tau if len(self._saturated) <= self.k else math.inf

    def _pop(self, dies: float, unsaturates: float) -> None:
        self.num_pops += 1
        if dies <= unsaturates:
            self._sum -= heapq.heappop(self._fractional)
            self.tau = dies
        else:
            score = heapq.heappop(self._saturated)
            heapq.heappush(self._fractional, score)
            self._sum += score
            self.tau = unsaturates


class KeptSet:
    """The k best entries seen so far; what falls out never comes back."""

    def __init__(self, k: int) -> None:
        self.k = k
        self._heap: list[tuple[float, int]] = []

    def push(self, score: float, index: int) -> int | None:
        """Adds an entry; returns the index that falls out (perhaps the new one), or None while there is room."""
        if len(self._heap) < self.k:
            heapq.heappush(self._heap, (score, index))
            return None
        return heapq.heappushpop(self._heap, (score, index))[1] if self.k else index

    def indices(self) -> list[int]:
        """Indices kept, ascending."""
        return sorted(index for _, index in self._heap)


class StreamFacts(NamedTuple):
    """What one stream of T scores leads to, one entry a step."""

    thresholds: list[float]
    num_fractional: list[int]
    deaths: list[int]
    """For each entry the first step at which it is not among the k best; NEVER if it survives."""


def run_stream(scores: Iterable[float], k: int) -> StreamFacts:
    """Thresholds after every step and deaths of all entries; the reference for the chunked form."""
    threshold, kept = StreamingThreshold(k), KeptSet(k)
    facts = StreamFacts([], [], [])
    for step, score in enumerate(scores):
        facts.thresholds.append(threshold.push(score))
        facts.num_fractional.append(threshold.num_fractional)
        facts.deaths.append(NEVER)
        fallen = kept.push(score, step)
        if fallen is not None:
            facts.deaths[fallen] = step
    return facts
