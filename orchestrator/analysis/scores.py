"""Scores of points with their denominators and intervals.

`mean` is over scored samples (unanswered counts as wrong); `mean_recorded` also counts as zero what we
failed to score; `mean_answered` leaves unanswered samples out, as the reference implementation does in
two of its tasks. All three are always given, with the counts behind them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from orchestrator.analysis.frame import Array, ScoreMatrix

BOOTSTRAP_RESAMPLES = 1000
BOOTSTRAP_SEED = 43


def score_table(matrix: ScoreMatrix, *, confidence: float = 0.95, resamples: int = BOOTSTRAP_RESAMPLES) -> pd.DataFrame:
    """One row a point: its columns, counts, the three means, analytic (`low`, `high`) and bootstrap intervals."""
    scores = matrix.scores
    scored = ~np.isnan(scores)
    table = matrix.points.copy()
    table["num_recorded"] = matrix.recorded.sum(axis=1)
    table["num_scored"] = scored.sum(axis=1)
    table["num_unanswered"] = matrix.unanswered.sum(axis=1)
    table["num_unscored"] = table["num_recorded"] - table["num_scored"]
    total = np.nansum(scores, axis=1)
    table["mean"] = _ratio(total, table["num_scored"].to_numpy())
    table["mean_recorded"] = _ratio(total, table["num_recorded"].to_numpy())
    table["mean_answered"] = _ratio(total, (table["num_scored"] - table["num_unanswered"]).to_numpy())
    table["std"] = _std(scores)
    table["low"], table["high"] = analytic_interval(scores, confidence)
    table["bootstrap_low"], table["bootstrap_high"] = bootstrap_interval(scores, confidence, resamples)
    return table


def analytic_interval(scores: Array, confidence: float = 0.95) -> tuple[Array, Array]:
    """Interval of each row's mean: Wilson's where all scores are 0 or 1 or all equal, Student's t elsewhere.

    Equal scores leave Student's t without a width, however few they are; Wilson's interval supposes the largest
    variance that scores in [0, 1] of that mean can have. `scores` is [rows, samples] with NaN for absent ones; rows
    without scores give NaN. Intervals are cut to [0, 1].
    """
    count = (~np.isnan(scores)).sum(axis=1)
    mean = _ratio(np.nansum(scores, axis=1), count)
    binary = np.all(np.isnan(scores) | (scores == 0) | (scores == 1), axis=1)
    constant = np.all(np.isnan(scores) | (np.abs(scores - mean[:, None]) < 1e-9), axis=1)
    t_low, t_high = _student(mean, _std(scores), count, confidence)
    w_low, w_high = _wilson(mean, count, confidence)
    low, high = np.where(binary | constant, w_low, t_low), np.where(binary | constant, w_high, t_high)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def _student(mean: Array, std: Array, count: npt.NDArray[np.int64], confidence: float) -> tuple[Array, Array]:
    quantile = stats.t.ppf(0.5 + confidence / 2, np.maximum(count - 1, 1))
    half = quantile * std / np.sqrt(np.maximum(count, 1))
    return mean - half, mean + half


def _wilson(mean: Array, count: npt.NDArray[np.int64], confidence: float) -> tuple[Array, Array]:
    z = stats.norm.ppf(0.5 + confidence / 2)
    n = np.maximum(count, 1)
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def bootstrap_interval(
    scores: Array, confidence: float = 0.95, resamples: int = BOOTSTRAP_RESAMPLES, seed: int = BOOTSTRAP_SEED
) -> tuple[Array, Array]:
    """Percentile interval of each row's mean; the same resampled samples for every row, so rows stay paired.

    A resample that draws none of a row's scores does not count for that row; rows without scores give NaN.
    """
    valid = (~np.isnan(scores)).astype(np.float64)
    filled = np.nan_to_num(scores)
    means = np.empty((resamples, len(scores)))
    weights = bootstrap_weights(scores.shape[1], resamples, seed)
    for start in range(0, len(scores), 4096):
        rows = slice(start, start + 4096)
        count = weights @ valid[rows].T
        means[:, rows] = np.divide(weights @ filled[rows].T, count, out=np.full(count.shape, np.nan), where=count > 0)
    tail = (1 - confidence) / 2
    return _quantiles(means, tail), _quantiles(means, 1 - tail)


def bootstrap_weights(num_samples: int, resamples: int, seed: int = BOOTSTRAP_SEED) -> Array:
    """[resamples, num_samples]: how often each resample draws each sample."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=resamples).astype(np.float64)


def _quantiles(means: Array, share: float) -> Array:
    """Column-wise quantile over the values that are there; NaN sorts to the end and is left out."""
    known = (~np.isnan(means)).sum(axis=0)
    last = np.maximum(known - 1, 0)
    positions = np.rint(share * last).astype(np.int64)
    ordered = np.partition(means, np.unique(positions), axis=0)
    out: Array = ordered[positions, np.arange(means.shape[1])]
    return out


def _std(scores: Array) -> Array:
    count = (~np.isnan(scores)).sum(axis=1)
    mean = _ratio(np.nansum(scores, axis=1), count)
    squares = np.nansum((scores - mean[:, None]) ** 2, axis=1)
    out: Array = np.sqrt(np.divide(squares, count - 1, out=np.full(len(scores), np.nan), where=count > 1))
    return out


def _ratio(total: Array, count: npt.NDArray[np.int64]) -> Array:
    out: Array = np.divide(total, count, out=np.full(len(total), np.nan), where=np.asarray(count) > 0)
    return out


def mean_over_tasks(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Unweighted mean of task means for each group of `by`, with its standard error; a group needs all its tasks.

    The error treats tasks as fixed and samples as drawn: sqrt(Σ s²/n) / tasks.
    """
    rows = table.assign(variance=table["std"] ** 2 / table["num_scored"])
    groups = rows.groupby(by, sort=False, dropna=False)
    out = groups.agg(mean=("mean", "mean"), num_tasks=("task", "nunique"), variance=("variance", "sum"))
    out["standard_error"] = np.sqrt(out.pop("variance")) / out["num_tasks"]
    most = out["num_tasks"].max() if len(out) else 0
    return out[out["num_tasks"] == most].reset_index()
