"""The interval of a cell's mean from its counters alone, for screens that must not read outcomes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval within [0, 1]."""

    low: float
    high: float


def interval_from_counters(
    num_scored: int, score_sum: float, score_square_sum: float, confidence: float = 0.95
) -> Interval | None:
    """The same rule as `scores.analytic_interval`. None without scores.

    Scores are all 0 or 1 exactly when their sum equals the sum of their squares, and all equal when the sum's square
    equals the sum of their squares times their number.
    """
    if num_scored == 0:
        return None
    mean, rounding = score_sum / num_scored, 1e-9 * num_scored
    binary = abs(score_sum - score_square_sum) <= rounding
    constant = abs(mean * score_sum - score_square_sum) <= rounding
    if binary or constant:
        centre, half = _wilson(mean, num_scored, confidence)
    else:
        centre, half = mean, _student(score_sum, score_square_sum, num_scored, confidence)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def _wilson(mean: float, n: int, confidence: float) -> tuple[float, float]:
    z = float(special.ndtri(0.5 + confidence / 2))
    scale = 1 + z * z / n
    half = z / scale * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return (mean + z * z / (2 * n)) / scale, half


def _student(total: float, squares: float, n: int, confidence: float) -> float:
    variance = max(0.0, (squares - total * total / n) / (n - 1))
    return float(special.stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(variance / n)
