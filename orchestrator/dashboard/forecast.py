"""When will it be done? The campaign's own record corrects what formulas say about the work left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from orchestrator.dashboard.snapshot import Eta
from orchestrator.domain.cost_correction import Kind, Observation
from orchestrator.domain.eta import WorkLeft, estimate

LEAST_SAMPLES = 5
"""Recorded samples below which no forecast is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """What one cell has shown and still holds."""

    kind: Kind
    num_left: int
    num_recorded: int
    seconds_sum: float
    """From submission to the end of generation, over the recorded samples."""
    predicted_seconds: float
    """Of one sample, in any unit that is the same for all cells."""


def forecast(records: Sequence[CellRecord], num_in_flight: float) -> Eta | None:
    """The seconds left while `num_in_flight` requests run at once; None while too little is known.

    By Little's law work leaves as fast as requests in flight divided by the seconds that each takes; those in flight
    have had half of theirs, on average.
    """
    recorded = sum(r.num_recorded for r in records)
    scale = sum(r.predicted_seconds * r.num_recorded for r in records)
    seconds = sum(r.seconds_sum for r in records)
    if recorded < LEAST_SAMPLES or num_in_flight <= 0 or scale <= 0 or seconds <= 0:
        return None
    factor = seconds / scale
    seen: dict[Kind, list[float]] = {}
    left: dict[Kind, list[float]] = {}
    for r in records:
        _add(seen, r.kind, r.num_recorded, factor * r.predicted_seconds * r.num_recorded, r.seconds_sum)
        _add(left, r.kind, r.num_left, factor * r.predicted_seconds * r.num_left, 0.0)
    result = estimate(
        [WorkLeft(kind=k, num_samples=int(n), predicted_seconds=s) for k, (n, s, _) in left.items() if n],
        [
            Observation(kind=k, num_samples=int(n), predicted_seconds=s, observed_seconds=o)
            for k, (n, s, o) in seen.items()
            if n
        ],
        num_gpus=num_in_flight,
        use=1.0,
        begun_seconds=num_in_flight * seconds / recorded / 2,
    )
    return Eta(low_seconds=result.low_seconds, high_seconds=result.high_seconds)


def _add(groups: dict[Kind, list[float]], kind: Kind, *values: float) -> None:
    total = groups.setdefault(kind, [0.0, 0.0, 0.0])
    for place, value in enumerate(values):
        total[place] += value


def by_speed(num_left: int, ticks: Sequence[Mapping[str, Any]]) -> Eta | None:
    """From the recent speed alone: its slowest and fastest third bound the interval."""
    if len(ticks) < 4 or num_left <= 0:
        return None
    parts = [ticks[i * (len(ticks) - 1) // 3] for i in range(4)]
    speeds = [
        (after["num_recorded"] - before["num_recorded"]) / (after["at"] - before["at"])
        for before, after in pairwise(parts)
        if after["at"] > before["at"]
    ]
    if not speeds or min(speeds) <= 0:
        return None
    return Eta(low_seconds=num_left / max(speeds), high_seconds=num_left / min(speeds))
