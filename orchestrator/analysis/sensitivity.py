"""Which tasks break first: loss per doubling of the compression, and how model size changes tolerance."""

from __future__ import annotations

import numpy as np
import pandas as pd

from orchestrator.analysis.admissible import FLOOR


def task_sensitivity(comparisons: pd.DataFrame, *, floor: float = FLOOR) -> pd.DataFrame:
    """One row a (method, task): `loss_per_doubling`, `worst_loss`, `worst_compression`, `num_cells`.

    `loss_per_doubling` is the slope of (dense − sparse) on log₂ compression through the origin, over models and
    lengths, in points of score. Cells whose dense mean is below `floor` have nothing to lose and are left out.
    """
    rows = comparisons[(comparisons["dense_mean"] >= floor) & (comparisons["compression"] > 1)]
    doublings = np.log2(rows["compression"])
    rows = rows.assign(loss=-rows["difference"], xy=-rows["difference"] * doublings, xx=doublings**2)
    groups = rows.groupby(["method", "phase", "task"], sort=False)
    out = groups.agg(xy=("xy", "sum"), xx=("xx", "sum"), num_cells=("loss", "size")).reset_index()
    out["loss_per_doubling"] = out.pop("xy") / out.pop("xx")
    levels = rows.groupby(["method", "task", "compression"], sort=False)["loss"].mean().reset_index()
    worst = levels.loc[levels.groupby(["method", "task"])["loss"].idxmax()]
    worst = worst.rename(columns={"loss": "worst_loss", "compression": "worst_compression"})
    return out.merge(worst, on=["method", "task"], how="left")


def size_tolerance(comparisons: pd.DataFrame, *, floor: float = FLOOR) -> pd.DataFrame:
    """One row a (method, model): mean loss of score at the highest compression that all models share, by task group.

    `easy` tasks are those whose dense mean over models is at least ½, `hard` the others.
    """
    rows = comparisons[comparisons["dense_mean"] >= floor]
    if rows.empty:
        return pd.DataFrame(columns=["method", "model", "num_parameters_b", "group", "compression", "loss"])
    easy = rows.groupby("task")["dense_mean"].mean() >= 0.5
    rows = rows.assign(group=np.where(rows["task"].map(easy), "easy", "hard"), loss=-rows["difference"])
    shared = rows.groupby(["method", "compression"])["model"].nunique()
    top = shared[shared == shared.groupby("method").transform("max")].reset_index().groupby("method")["compression"]
    rows = rows[rows["compression"] == rows["method"].map(top.max())]
    keys = ["method", "model", "num_parameters_b", "group", "compression"]
    return rows.groupby(keys, sort=False, dropna=False)["loss"].mean().reset_index()
