"""Sparse against dense on the same samples: differences, non-inferiority, corrections, and Welch's test.

The tests are t tests on d = sparse − dense for each sample. For non-inferiority Hall's transformation
(1992) of the t statistic is used, which allows for skewness: without it the test errs 12 % of the time at
a nominal 5 % where losses are rare and total (100 pairs, each lost with probability 0.05), since the few
that are seen hide the variance. Where all pairs differ by the same c there is no variance at all; then an exact
bound is used: a mean loss of `margin` or more gives n such pairs with probability at most
((1 − margin) / (1 + c))ⁿ, since the rest of the distribution can lose no more than 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from orchestrator.analysis.frame import DENSE, Array, ScoreMatrix
from orchestrator.analysis.scores import bootstrap_interval

DEFAULT_MARGIN = 0.05
"""Largest loss of score that counts as none."""
PAIR_BY = ("model", "task", "length_tokens")


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Row-wise results for matrices of paired differences; every field has one value a row."""

    num_pairs: npt.NDArray[np.int64]
    difference: Array
    """Mean of sparse − dense."""
    low: Array
    high: Array
    """Two-sided interval of the difference."""
    p_two_sided: Array
    """H0: no difference."""
    p_worse: Array
    """H0: sparse is not worse; small means that it is."""
    p_noninferior: Array
    """H0: sparse loses `margin` or more; small means that it loses less."""


def paired_test(differences: Array, *, margin: float = DEFAULT_MARGIN, confidence: float = 0.95) -> PairedTest:
    """Paired t tests of each row of `differences` [rows, samples], NaN where a pair is incomplete.

    Rows with fewer than two pairs get p = 1 and the interval [−1, 1].
    """
    valid = ~np.isnan(differences)
    count = valid.sum(axis=1)
    n = np.maximum(count, 1)
    mean = np.nansum(differences, axis=1) / n
    squares = np.where(valid, (np.nan_to_num(differences) - mean[:, None]) ** 2, 0).sum(axis=1)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / n)
    flat = error < 1e-12
    safe, freedom = np.where(flat, 1.0, error), np.maximum(count - 1, 1)
    t = mean / safe
    half = stats.t.ppf(0.5 + confidence / 2, freedom) * error
    bound = 1 - ((1 - confidence) / 2) ** (1 / n)
    half = np.where(flat, bound, half)
    differs = np.abs(mean) > 1e-12
    few = count < 2
    p_two = np.where(flat, np.where(differs, 2 * 0.5**n, 1.0), 2 * stats.t.sf(np.abs(t), freedom))
    p_worse = np.where(flat, np.where(mean < -1e-12, 0.5**n, 1.0), stats.t.cdf(t, freedom))
    share = (1 - margin) / np.maximum(1 + mean, 1e-12)
    exact = np.where(mean > -margin, np.clip(share, 0, 1) ** n, 1.0)
    cubes = np.where(valid, (np.nan_to_num(differences) - mean[:, None]) ** 3, 0).sum(axis=1)
    p_non = np.where(flat, exact, stats.t.sf(_hall(mean + margin, squares / n, cubes / n, n), freedom))
    return PairedTest(
        num_pairs=count,
        difference=np.where(count > 0, mean, np.nan),
        low=np.where(few, -1.0, np.clip(mean - half, -1, 1)),
        high=np.where(few, 1.0, np.clip(mean + half, -1, 1)),
        p_two_sided=np.where(few, 1.0, p_two),
        p_worse=np.where(few, 1.0, p_worse),
        p_noninferior=np.where(few, 1.0, p_non),
    )


def _hall(excess: Array, second: Array, third: Array, n: npt.NDArray[np.int64]) -> Array:
    """Hall's monotone transformation of √n · excess / sd, from the central moments of each row (1992, section 3.9)."""
    spread = np.sqrt(np.where(second > 0, second, 1.0))
    ratio, skew = excess / spread, third / spread**3
    out: Array = np.sqrt(n) * (ratio + skew * ratio**2 / 3 + skew**2 * ratio**3 / 27 + skew / (6 * n))
    return out


def welch_p_worse(dense: Array, sparse: Array) -> Array:
    """One-tailed Welch test of each row (H1: sparse is worse), unpaired and uncorrected as in version 1 (4.3).

    Inputs are [rows, samples]. Equal constant scores give 1; a constant lower score gives 0.
    """
    n1, n2 = (np.maximum((~np.isnan(x)).sum(axis=1), 1) for x in (dense, sparse))
    m1, m2 = np.nansum(dense, axis=1) / n1, np.nansum(sparse, axis=1) / n2
    v1, v2 = _error_squared(dense, m1, n1), _error_squared(sparse, m2, n2)
    total = v1 + v2
    flat = total < 1e-18
    safe = np.where(flat, 1.0, total)
    freedom = safe**2 / np.maximum(v1**2 / np.maximum(n1 - 1, 1) + v2**2 / np.maximum(n2 - 1, 1), 1e-300)
    p = stats.t.sf((m1 - m2) / np.sqrt(safe), np.clip(freedom, 1, 1e9))
    return np.where(flat, np.where(m2 < m1 - 1e-12, 0.0, 1.0), p)


def _error_squared(values: Array, mean: Array, count: npt.NDArray[np.int64]) -> Array:
    squares = np.nansum((values - mean[:, None]) ** 2, axis=1)
    out: Array = squares / np.maximum(count - 1, 1) / count
    return out


def holm(p_values: npt.ArrayLike) -> Array:
    """Holm's adjusted p-values (family-wise error), in the given order; NaN is left out of the family."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    known = order[~np.isnan(p[order])]
    steps = np.arange(len(known), 0, -1)
    out = np.full(len(p), np.nan)
    out[known] = np.minimum(1, np.maximum.accumulate(p[known] * steps))
    return out


def benjamini_hochberg(p_values: npt.ArrayLike) -> Array:
    """Benjamini–Hochberg adjusted p-values (false discovery rate); NaN is left out of the family."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    known = order[~np.isnan(p[order])]
    ranks = np.arange(1, len(known) + 1)
    scaled = p[known] * len(known) / ranks
    out = np.full(len(p), np.nan)
    out[known] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return out


def dense_row(points: pd.DataFrame) -> npt.NDArray[np.int64]:
    """For each point the row of the dense point with the same model, task and length; −1 where there is none."""
    dense = points[points["method"] == DENSE]
    rows = {key: int(row) for row, key in zip(dense.index, dense[list(PAIR_BY)].itertuples(index=False), strict=True)}
    keys = points[list(PAIR_BY)].itertuples(index=False)
    return np.array([rows.get(key, -1) for key in keys], dtype=np.int64)


def paired_differences(matrix: ScoreMatrix, sparse: npt.NDArray[np.int64], dense: npt.NDArray[np.int64]) -> Array:
    """[pairs, samples] score of `sparse` rows − score of `dense` rows; NaN unless both scored the same sample."""
    same = matrix.sample_codes[sparse] == matrix.sample_codes[dense]
    difference: Array = np.where(same, matrix.scores[sparse] - matrix.scores[dense], np.nan)
    return difference


def compare_with_dense(
    matrix: ScoreMatrix, *, margin: float = DEFAULT_MARGIN, confidence: float = 0.95, resamples: int = 1000
) -> pd.DataFrame:
    """One row for each sparse point that has a dense twin: both means, the difference, intervals, tests, corrections.

    The family of the corrections is all rows of the table. `num_unmatched` counts samples that both scored
    under different identities; they are left out of the test.
    """
    dense = dense_row(matrix.points)
    is_sparse = (matrix.points["method"] != DENSE).to_numpy()
    sparse = np.flatnonzero((dense >= 0) & is_sparse)
    twins = dense[sparse]
    differences = paired_differences(matrix, sparse, twins)
    table = matrix.points.iloc[sparse].reset_index(names="row")
    table["dense_mean"], table["sparse_mean"] = _paired_means(matrix, differences, sparse, twins)
    table["num_unmatched"] = _unmatched(matrix, sparse, twins)
    _add_tests(table, differences, margin, confidence)
    table["bootstrap_low"], table["bootstrap_high"] = bootstrap_interval(differences, confidence, resamples)
    table["welch_p"] = welch_p_worse(matrix.scores[twins], matrix.scores[sparse])
    return table


def _paired_means(
    matrix: ScoreMatrix, differences: Array, sparse: npt.NDArray[np.int64], dense: npt.NDArray[np.int64]
) -> tuple[Array, Array]:
    paired = ~np.isnan(differences)
    count = np.maximum(paired.sum(axis=1), 1)
    means = [np.where(paired, matrix.scores[rows], 0.0).sum(axis=1) / count for rows in (dense, sparse)]
    return means[0], means[1]


def _unmatched(
    matrix: ScoreMatrix, sparse: npt.NDArray[np.int64], dense: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    a, b = matrix.sample_codes[sparse], matrix.sample_codes[dense]
    count: npt.NDArray[np.int64] = ((a != b) & (a >= 0) & (b >= 0)).sum(axis=1)
    return count


def _add_tests(table: pd.DataFrame, differences: Array, margin: float, confidence: float) -> None:
    tests = paired_test(differences, margin=margin, confidence=confidence)
    for name in PairedTest.__slots__:
        table[name] = getattr(tests, name)
    for name in ("p_worse", "p_noninferior"):
        table[f"{name}_holm"] = holm(table[name].to_numpy())
        table[f"{name}_bh"] = benjamini_hochberg(table[name].to_numpy())
