"""Quality against cost: which points are worth their price, at equal operations, bytes, density or measured time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.analysis.frame import DENSE, Array

CONFIGURATION = ("model", "method", "phase", "compression", "length_tokens")


def pareto_front(cost: npt.ArrayLike, quality: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """True for points that no other point beats: none is at most as costly and better, or cheaper and as good.

    NaN in either is never on the front.
    """
    price, value = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    on_front = np.zeros(len(price), dtype=np.bool_)
    best = -np.inf
    for row in np.lexsort((-value, price)):
        if not np.isnan(price[row] + value[row]) and value[row] > best:
            on_front[row] = True
            best = value[row]
    return on_front


def configurations(table: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Mean score over tasks and mean `cost` of each (model, method, compression, length) that has every task.

    `table` has one row a point: the score table merged with costs. Columns added: `mean`, `standard_error`
    (samples drawn, tasks fixed), `cost`, `num_tasks`.
    """
    rows = table.assign(variance=table["std"] ** 2 / table["num_scored"], cost=table[cost])
    groups = rows.groupby(list(CONFIGURATION), sort=False, dropna=False)
    out = groups.agg(
        mean=("mean", "mean"),
        cost=("cost", "mean"),
        num_tasks=("task", "nunique"),
        variance=("variance", "sum"),
        num_parameters_b=("num_parameters_b", "first"),
    ).reset_index()
    out["standard_error"] = np.sqrt(out.pop("variance")) / out["num_tasks"]
    if len(out):
        complete = out.groupby("length_tokens")["num_tasks"].transform("max")
        out = out[out["num_tasks"] == complete]
    return out.reset_index(drop=True)


def frontier(table: pd.DataFrame, cost: str, *, methods: tuple[str, ...] | None = None) -> pd.DataFrame:
    """`configurations` with `on_front`, decided for each length among dense and the given methods (all by default)."""
    out = configurations(table, cost)
    if methods is not None:
        out = out[out["method"].isin([DENSE, *methods])].reset_index(drop=True)
    out["on_front"] = False
    for _, rows in out.groupby("length_tokens", sort=False).indices.items():
        front = pareto_front(out["cost"].to_numpy()[rows], out["mean"].to_numpy()[rows])
        out.loc[rows, "on_front"] = front
    return out


def interpolated_score(compression: Array, score: Array, at: npt.ArrayLike) -> Array:
    """Scores at nominal compressions by linear interpolation between measured ones, as the paper does (1.2).

    Outside the measured range the result is NaN: nothing is extrapolated.
    """
    order = np.argsort(compression)
    wanted = np.asarray(at, dtype=np.float64)
    out: Array = np.interp(wanted, compression[order], score[order], left=np.nan, right=np.nan)
    return out
