"""Two campaigns side by side: points that both have, paired on the samples that both scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchestrator.analysis.frame import POINT_COLUMNS, Array, CampaignFrames, score_matrix
from orchestrator.analysis.significance import DEFAULT_MARGIN, PairedTest, holm, paired_test


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two campaigns share and how it differs; differences are second − first."""

    first: str
    second: str
    shared: pd.DataFrame
    """One row a shared point: both means, paired difference with interval, tests, prompts that differ."""
    only_first: pd.DataFrame
    only_second: pd.DataFrame
    """POINT_COLUMNS of points that the other one lacks."""


def compare_campaigns(first: CampaignFrames, second: CampaignFrames, *, margin: float = DEFAULT_MARGIN) -> Comparison:
    """Pair the points of equal (model, method, budget, task, length) by sample identity.

    `num_prompts_differ` counts samples of equal place but unequal identity: another tokenizer, task version or seed.
    """
    both = score_matrix(_joined(first, second))
    campaign = both.points["method"].str.startswith(_MARK).to_numpy()
    points = both.points.assign(method=both.points["method"].str.removeprefix(_MARK), row=np.arange(len(both.points)))
    left, right = points[~campaign], points[campaign]
    keys = list(POINT_COLUMNS)
    merged = left.merge(right[[*keys, "row"]], on=keys, suffixes=("", "_second"))
    a, b = merged["row"].to_numpy(), merged["row_second"].to_numpy()
    same = (both.sample_codes[a] == both.sample_codes[b]) & (both.sample_codes[a] >= 0)
    present = (both.sample_codes[a] >= 0) & (both.sample_codes[b] >= 0)
    differences = np.where(same, both.scores[b] - both.scores[a], np.nan)
    tests = paired_test(differences, margin=margin)
    shared = merged[keys].assign(
        first_mean=_means(both.scores[a]), second_mean=_means(both.scores[b]),
        num_prompts_differ=(present & ~same).sum(axis=1),
        **{name: getattr(tests, name) for name in PairedTest.__slots__},
    )  # fmt: skip
    shared["p_two_sided_holm"] = holm(shared["p_two_sided"].to_numpy())
    shared["identical_scores"] = np.nansum(np.abs(differences), axis=1) == 0
    return Comparison(
        first=first.name,
        second=second.name,
        shared=shared,
        only_first=_missing(left[keys], right[keys]),
        only_second=_missing(right[keys], left[keys]),
    )


_MARK = "\x1e"
"""Keeps the second campaign's points apart while both share one matrix. Not NUL: pandas 2.2 ends a key there."""


def _joined(first: CampaignFrames, second: CampaignFrames) -> CampaignFrames:
    cells = second.cells.assign(method=_MARK + second.cells["method"], cell_key=_MARK + second.cells["cell_key"])
    outcomes = second.outcomes.assign(cell_key=(_MARK + second.outcomes["cell_key"].astype(str)))
    merged = pd.concat([first.outcomes.assign(cell_key=first.outcomes["cell_key"].astype(str)), outcomes])
    for column in ("cell_key", "sample_key", "verdict", "failure_kind"):
        merged[column] = merged[column].astype(str).astype("category")
    return CampaignFrames(
        name=f"{first.name} and {second.name}",
        state="",
        cells=pd.concat([first.cells, cells], ignore_index=True),
        outcomes=merged.reset_index(drop=True),
    )


def _means(scores: Array) -> Array:
    count = (~np.isnan(scores)).sum(axis=1)
    out: Array = np.divide(np.nansum(scores, axis=1), count, out=np.full(len(scores), np.nan), where=count > 0)
    return out


def _missing(there: pd.DataFrame, here: pd.DataFrame) -> pd.DataFrame:
    merged = there.merge(here, how="left", indicator=True)
    return merged[merged["_merge"] == "left_only"].drop(columns="_merge").reset_index(drop=True)
