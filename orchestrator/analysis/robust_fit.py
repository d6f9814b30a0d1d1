"""Linear predictors fitted by L-BFGS on a chosen loss, on standardised columns."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np

from orchestrator.analysis.frame import Array

HUBER_DELTA = 1.0


class Loss(StrEnum):
    """What is minimised."""

    HUBER = "huber"
    """On logits; quadratic up to HUBER_DELTA, linear beyond (version 1's choice)."""
    SQUARED = "squared"
    """On logits."""
    BINOMIAL = "binomial"
    """Deviance of accuracies in [0, 1] from the predicted ones; the target is the accuracy, not its logit."""


def minimise(
    matrix: Array, target: Array, loss: Loss = Loss.HUBER, *, ridge: Array | None = None, start: Array | None = None
) -> Array:
    """Coefficients of `matrix` [points, columns] with the least mean loss against `target` [points].

    Column 0 must be the intercept. `ridge` penalises each standardised column; `start`, on the raw scale, is where a
    refit begins; it then stops a little earlier.
    """
    from scipy.optimize import minimize

    centre, spread = matrix[:, 1:].mean(axis=0), matrix[:, 1:].std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    scaled = np.column_stack([np.ones(len(matrix)), (matrix[:, 1:] - centre) / spread])
    penalty = np.zeros(scaled.shape[1]) if ridge is None else ridge

    def objective(values: Array) -> tuple[float, Array]:
        value, slope = _loss(scaled @ values, target, loss)
        gradient = scaled.T @ slope / len(target) + 2 * penalty * values
        return float(value.mean() + (penalty * values * values).sum()), gradient

    options = {"maxiter": 2000, "ftol": 1e-13 if start is None else 1e-9}
    first = _first_guess(scaled, target, loss) if start is None else _to_scaled(start, centre, spread)
    found: Any = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    slopes = found.x[1:] / spread
    return np.concatenate([[found.x[0] - slopes @ centre], slopes])


def _first_guess(scaled: Array, target: Array, loss: Loss) -> Array:
    share = np.clip(target, 0.02, 0.98)
    aim = np.log(share / (1 - share)) if loss is Loss.BINOMIAL else target
    guess: Array = np.linalg.lstsq(scaled, aim, rcond=None)[0]
    return guess


def _to_scaled(values: Array, centre: Array, spread: Array) -> Array:
    return np.concatenate([[values[0] + values[1:] @ centre], values[1:] * spread])


def _loss(predicted: Array, target: Array, loss: Loss) -> tuple[Array, Array]:
    """Loss of each point and its slope with respect to the prediction."""
    if loss is Loss.BINOMIAL:
        return np.logaddexp(0, predicted) - target * predicted, 1 / (1 + np.exp(-predicted)) - target
    residual = predicted - target
    if loss is Loss.SQUARED:
        return residual**2 / 2, residual
    size = np.abs(residual)
    value = np.where(size <= HUBER_DELTA, residual**2 / 2, HUBER_DELTA * (size - HUBER_DELTA / 2))
    return value, np.clip(residual, -HUBER_DELTA, HUBER_DELTA)
