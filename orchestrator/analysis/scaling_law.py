"""The additive scaling law logit(accuracy) = α log N + β log L + γ log C + δ_task + ε, fitted robustly.

Natural logarithms of N (parameters), L (tokens) and C (compression). Each point's accuracy enters as
(accuracy · n + ½) / (n + 1), so that 0 and 1 have finite logits whose size depends on how much was seen,
not on an arbitrary clip. Fit: L-BFGS on the Huber loss (δ = 1), as in version 1 (4.7), or on the binomial
deviance, which needs no such correction and is not pulled in by saturated points. Intervals come from
resampling whole (model, task, length) groups, because their points share prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.analysis.frame import Array
from orchestrator.analysis.robust_fit import Loss, minimise

LAW_COLUMNS = ("num_parameters_b", "length_tokens", "compression", "task", "mean", "num_scored")
CLUSTER = ("model", "task", "length_tokens")


class HoldOut(StrEnum):
    """Which largest value is kept out of the fit."""

    NONE = "none"
    LENGTH = "length"
    MODEL_SIZE = "model_size"
    COMPRESSION = "compression"


HOLD_OUT_COLUMN = {
    HoldOut.LENGTH: "length_tokens",
    HoldOut.MODEL_SIZE: "num_parameters_b",
    HoldOut.COMPRESSION: "compression",
}


@dataclass(frozen=True, slots=True)
class Design:
    """A design matrix and its column names; the first column is the intercept."""

    matrix: Array
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodness:
    """How well predictions fit a set of points; NaN where it is undefined."""

    num_points: int
    r_squared: float
    """On the logit scale, against the mean of these points; negative when worse than that mean."""
    spearman: float
    spearman_p: float
    mean_absolute_error: float
    """In accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LawFit:
    """One fit of the law."""

    hold_out: HoldOut
    names: tuple[str, ...]
    """`intercept`, `alpha`, `beta`, `gamma`, then one `task:NAME` for each task but the reference."""
    reference_task: str
    values: Array
    low: Array
    high: Array
    """Bootstrap interval of each value; NaN without resamples."""
    fitted: Goodness
    held_out: Goodness | None
    per_task: pd.DataFrame
    """Goodness of each task on the held-out part, or on the fitted part when nothing is held out."""

    def value(self, name: str) -> float:
        return float(self.values[self.names.index(name)])


def logit_accuracy(mean: npt.ArrayLike, num_scored: npt.ArrayLike) -> Array:
    """Empirical logit of accuracies with ½ a success and ½ a failure added to the sample."""
    n = np.asarray(num_scored, dtype=np.float64)
    share = (np.asarray(mean, dtype=np.float64) * n + 0.5) / (n + 1)
    out: Array = np.log(share) - np.log1p(-share)
    return out


def law_design(points: pd.DataFrame, tasks: Sequence[str]) -> Design:
    """Columns of the additive law; `tasks[0]` is the reference without an effect of its own."""
    columns = [np.ones(len(points)), np.log(points["num_parameters_b"].to_numpy(np.float64) * 1e9)]
    columns += [np.log(points[name].to_numpy(np.float64)) for name in ("length_tokens", "compression")]
    columns += [(points["task"] == task).to_numpy(np.float64) for task in tasks[1:]]
    return Design(np.column_stack(columns), ("intercept", "alpha", "beta", "gamma", *(f"task:{t}" for t in tasks[1:])))


def usable_points(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a score table that the law can use: a known size, compression and at least one scored sample."""
    needed = table[["num_parameters_b", "compression", "mean"]].notna().all(axis=1)
    return table[needed & (table["num_scored"] > 0)].reset_index(drop=True)


def fit_law(
    points: pd.DataFrame,
    *,
    hold_out: HoldOut = HoldOut.NONE,
    reference_task: str | None = None,
    loss: Loss = Loss.HUBER,
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 43,
) -> LawFit:
    """Fit the law on `points` (columns LAW_COLUMNS and `model`).

    Raises ValueError when fewer points than coefficients are left.
    """
    tasks = sorted(points["task"].unique())
    if reference_task in tasks:
        tasks = [reference_task, *(t for t in tasks if t != reference_task)]
    design = law_design(points, tasks)
    target = logit_accuracy(points["mean"], points["num_scored"])
    kept = ~held_out_mask(points, hold_out)
    if kept.sum() < design.matrix.shape[1]:
        raise ValueError(f"{int(kept.sum())} points are too few for {design.matrix.shape[1]} coefficients")
    aim = points["mean"].to_numpy(np.float64) if loss is Loss.BINOMIAL else target
    values = minimise(design.matrix[kept], aim[kept], loss)
    low, high = _bootstrap(design.matrix[kept], aim[kept], points[kept], loss, resamples, confidence, seed)
    predicted = design.matrix @ values
    shown = kept if hold_out is HoldOut.NONE else ~kept
    return LawFit(
        hold_out=hold_out,
        names=design.names,
        reference_task=tasks[0],
        values=values,
        low=low,
        high=high,
        fitted=goodness(target[kept], predicted[kept], points["mean"][kept]),
        held_out=None if hold_out is HoldOut.NONE else goodness(target[~kept], predicted[~kept], points["mean"][~kept]),
        per_task=_per_task(points, target, predicted, shown, tasks),
    )


def held_out_mask(points: pd.DataFrame, hold_out: HoldOut) -> npt.NDArray[np.bool_]:
    """True for the points with the axis' largest value; all False for NONE.

    Raises ValueError when fewer than two other values would be left to learn the axis' effect from.
    """
    if hold_out is HoldOut.NONE:
        return np.zeros(len(points), dtype=np.bool_)
    axis = points[HOLD_OUT_COLUMN[hold_out]].to_numpy(np.float64)
    if len(np.unique(axis)) < 3:
        raise ValueError(f"{HOLD_OUT_COLUMN[hold_out]} has fewer than three values; nothing can be held out")
    mask: npt.NDArray[np.bool_] = axis == axis.max()
    return mask


def _bootstrap(
    matrix: Array,
    target: Array,
    points: pd.DataFrame,
    loss: Loss,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[Array, Array]:
    """Percentile interval of each coefficient over resampled clusters of points."""
    if resamples < 2:
        empty = np.full(matrix.shape[1], np.nan)
        return empty, empty
    generator = np.random.default_rng(seed)
    clusters = list(points.reset_index(drop=True).groupby(list(CLUSTER), sort=False).indices.values())
    start = minimise(matrix, target, loss)
    draws = []
    for _ in range(resamples):
        chosen = generator.integers(0, len(clusters), len(clusters))
        rows = np.concatenate([clusters[i] for i in chosen])
        draws.append(minimise(matrix[rows], target[rows], loss, start=start))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.array(draws), [tail, 100 - tail], axis=0)
    return low, high


def goodness(target: Array, predicted: Array, accuracy: npt.ArrayLike) -> Goodness:
    """Fit of predicted logits to observed ones, and of their accuracies to `accuracy`."""
    from scipy.stats import spearmanr

    observed = np.asarray(accuracy, dtype=np.float64)
    spread = ((target - target.mean()) ** 2).sum() if len(target) else 0.0
    varied = len(target) > 2 and np.ptp(target) > 0 and np.ptp(predicted) > 0
    rho: Any = spearmanr(target, predicted) if varied else (float("nan"), float("nan"))
    return Goodness(
        num_points=len(target),
        r_squared=float(1 - ((target - predicted) ** 2).sum() / spread) if spread > 0 else float("nan"),
        spearman=float(rho[0]),
        spearman_p=float(rho[1]),
        mean_absolute_error=float(np.abs(1 / (1 + np.exp(-predicted)) - observed).mean()) if len(target) else np.nan,
    )


def _per_task(
    points: pd.DataFrame, target: Array, predicted: Array, shown: npt.NDArray[np.bool_], tasks: Sequence[str]
) -> pd.DataFrame:
    rows = []
    for task in sorted(tasks):
        mask = shown & (points["task"] == task).to_numpy()
        fit = goodness(target[mask], predicted[mask], points["mean"].to_numpy()[mask])
        rows.append({"task": task, **{name: getattr(fit, name) for name in Goodness.__slots__}})
    return pd.DataFrame(rows)
