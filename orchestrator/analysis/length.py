"""How much may be left out as prompts grow: relative error against budget, and the budget that an error allows.

Relative error = (mean dense − mean sparse) / mean dense over the same samples, averaged over tasks as a ratio of
means, so that tasks near the floor do not divide by almost nothing. The paper's RQ3 (4.5) mixed methods whose
grids differ per length; here every line is one method, and a point needs every task.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from orchestrator.analysis.admissible import FLOOR
from orchestrator.analysis.frame import Array

LINE = ["method", "phase", "length_tokens", "compression"]


def relative_error(comparisons: pd.DataFrame, *, floor: float = FLOOR) -> pd.DataFrame:
    """One row a (method, phase, length, compression): `relative_error`, `standard_error`, `num_pairs`, `num_cells`.

    Cells whose dense mean is below `floor` are left out; lines that lack (model, task) cells which others of the
    same method and length have are dropped, so that points of a line average the same things.
    """
    rows = comparisons[(comparisons["dense_mean"] >= floor) & comparisons["compression"].notna()]
    error = (rows["high"] - rows["low"]) / 3.92
    groups = rows.assign(variance=error**2).groupby(LINE, sort=False)
    out = groups.agg(
        dense=("dense_mean", "sum"),
        lost=("difference", lambda values: -values.sum()),
        variance=("variance", "sum"),
        num_pairs=("num_pairs", "sum"),
        num_cells=("difference", "size"),
    ).reset_index()
    most = out.groupby(["method", "phase", "length_tokens"])["num_cells"].transform("max")
    out = out[out["num_cells"] == most].reset_index(drop=True)
    out["relative_error"] = out["lost"] / out["dense"]
    out["standard_error"] = np.sqrt(out["variance"]) / out["dense"]
    return out.drop(columns=["dense", "lost", "variance"])


def admissible_budget(errors: pd.DataFrame, *, limits: tuple[float, ...] = (0.1, 0.2)) -> pd.DataFrame:
    """One row a (method, length, limit): the largest `compression` whose relative error stays within the limit.

    Linear interpolation in log compression between measured levels, from (1, 0); NaN with `beyond` True when even
    the highest measured level stays within. `budget_tokens` = length / compression.
    """
    rows = []
    for (method, length), line in errors.groupby(["method", "length_tokens"], sort=False):
        ordered = line.sort_values("compression")
        for limit in limits:
            found = _crossing(ordered["compression"].to_numpy(), ordered["relative_error"].to_numpy(), limit)
            tokens = length / found if found else float("nan")
            rows.append(
                {
                    "method": method,
                    "length_tokens": length,
                    "limit": limit,
                    "compression": found if found else float("nan"),
                    "beyond": found is None,
                    "budget_tokens": tokens,
                }
            )
    return pd.DataFrame(rows, columns=["method", "length_tokens", "limit", "compression", "beyond", "budget_tokens"])


def _crossing(compression: Array, error: Array, limit: float) -> float | None:
    """First compression at which the error passes `limit`; None when it never does."""
    x, y = np.concatenate([[0.0], np.log(compression)]), np.concatenate([[0.0], error])
    above = np.flatnonzero(y > limit)
    if len(above) == 0:
        return None
    i = int(above[0])
    if i == 0 or y[i] == y[i - 1]:
        return float(np.exp(x[i]))
    return float(np.exp(x[i - 1] + (limit - y[i - 1]) * (x[i] - x[i - 1]) / (y[i] - y[i - 1])))


def budget_exponent(budgets: pd.DataFrame) -> pd.DataFrame:
    """One row a (method, limit): b in budget_tokens ∝ lengthᵇ by least squares on logs; below 1 is sublinear growth.

    Needs two lengths with a value; others are left out.
    """
    rows = []
    for (method, limit), line in budgets.dropna(subset=["budget_tokens"]).groupby(["method", "limit"], sort=False):
        if line["length_tokens"].nunique() >= 2:
            x, y = np.log(line["length_tokens"].to_numpy(float)), np.log(line["budget_tokens"].to_numpy(float))
            slope = float(np.polyfit(x, y, 1)[0])
            rows.append({"method": method, "limit": limit, "exponent": slope, "num_lengths": len(line)})
    return pd.DataFrame(rows, columns=["method", "limit", "exponent", "num_lengths"])
