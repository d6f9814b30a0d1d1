"""Does compression hurt all tasks, sizes and lengths alike? The additive law against one with interactions.

Both are judged on groups of points that the fit has not seen (cross-validation over (model, task, length)),
so that the richer model wins only when its extra terms predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.analysis.frame import Array
from orchestrator.analysis.robust_fit import Loss, minimise
from orchestrator.analysis.scaling_law import (
    CLUSTER,
    Design,
    Goodness,
    goodness,
    law_design,
    logit_accuracy,
)

RIDGE = 1e-3
"""Penalty on each standardised interaction, in units of the mean loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """Out-of-sample fit of both models over the same folds."""

    additive: Goodness
    interactions: Goodness
    num_folds: int
    gain: float
    """Mean fall of the absolute error in accuracy through the interactions; positive favours them."""
    gain_low: float
    gain_high: float
    """Interval of the gain over resampled groups."""
    task_gamma: dict[str, float]
    """Effect of log C on the logit of each task at the mean log N and log L, from the model with interactions."""

    @property
    def prefers_interactions(self) -> bool:
        return self.gain_low > 0


def interaction_design(points: pd.DataFrame, tasks: Sequence[str]) -> Design:
    """The additive columns, then log C × (task, log N, log L) and task × (log N, log L), the logs centred."""
    base = law_design(points, tasks)
    size, length = (base.matrix[:, i] - base.matrix[:, i].mean() for i in (1, 2))
    compression = base.matrix[:, 3]
    columns, names = [compression * size, compression * length], ["gamma×log N", "gamma×log L"]
    for offset, task in enumerate(tasks[1:]):
        effect = base.matrix[:, 4 + offset]
        columns += [effect * compression, effect * size, effect * length]
        names += [f"gamma×{task}", f"log N×{task}", f"log L×{task}"]
    return Design(np.column_stack([base.matrix, *columns]), (*base.names, *names))


def compare_models(points: pd.DataFrame, *, num_folds: int = 10, seed: int = 43) -> ModelComparison:
    """Cross-validate the additive law and the one with interactions on `points` (see `fit_law`).

    Raises ValueError with fewer groups than two folds need.
    """
    tasks = sorted(points["task"].unique())
    target = logit_accuracy(points["mean"], points["num_scored"])
    groups = points.groupby(list(CLUSTER), sort=False).ngroup().to_numpy()
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    folds = min(num_folds, num_groups)
    if folds < 2:
        raise ValueError(f"{num_groups} groups of points are too few to cross-validate")
    fold_of = np.random.default_rng(seed).permutation(num_groups)[groups] % folds
    designs = law_design(points, tasks), interaction_design(points, tasks)
    predictions = [_cross_validated(design, target, fold_of, folds, len(tasks) + 3) for design in designs]
    observed = points["mean"].to_numpy()
    errors = [np.abs(1 / (1 + np.exp(-p)) - observed) for p in predictions]
    low, high = _gain_interval(errors[0] - errors[1], groups, num_groups, seed)
    return ModelComparison(
        additive=goodness(target, predictions[0], observed),
        interactions=goodness(target, predictions[1], observed),
        num_folds=folds,
        gain=float((errors[0] - errors[1]).mean()),
        gain_low=low,
        gain_high=high,
        task_gamma=_task_gamma(designs[1], target, tasks),
    )


def _cross_validated(design: Design, target: Array, fold_of: npt.NDArray[np.int64], folds: int, plain: int) -> Array:
    predicted = np.empty(len(target))
    ridge = np.where(np.arange(design.matrix.shape[1]) < plain, 0.0, RIDGE)
    for fold in range(folds):
        test = fold_of == fold
        values = minimise(design.matrix[~test], target[~test], Loss.HUBER, ridge=ridge)
        predicted[test] = design.matrix[test] @ values
    return predicted


def _gain_interval(gain: Array, groups: npt.NDArray[np.int64], num_groups: int, seed: int) -> tuple[float, float]:
    sums = np.bincount(groups, gain, minlength=num_groups)
    counts = np.bincount(groups, minlength=num_groups)
    draws = np.random.default_rng(seed).integers(0, num_groups, (2000, num_groups))
    low, high = np.percentile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _task_gamma(design: Design, target: Array, tasks: Sequence[str]) -> dict[str, float]:
    ridge = np.where(np.arange(design.matrix.shape[1]) < len(tasks) + 3, 0.0, RIDGE)
    values = dict(zip(design.names, minimise(design.matrix, target, Loss.HUBER, ridge=ridge), strict=True))
    return {task: float(values["gamma"] + values.get(f"gamma×{task}", 0.0)) for task in tasks}
