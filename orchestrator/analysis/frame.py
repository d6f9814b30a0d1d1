"""A campaign as two pandas frames, and its scores as one matrix whose columns are samples.

A *point* is a cell without its seed: (model, method, budget, task, length). Samples of a point are the
(seed, index) pairs of its cells; points that differ in method alone share them, which is what makes
paired comparison possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.analysis.columns import CELL_COLUMNS, FRAME_COLUMNS

Array = npt.NDArray[np.float64]

POINT_COLUMNS = ("model", "method", "budget", "task", "length_tokens")
DENSE = "dense"


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignFrames:
    """Everything that the analyses know of one campaign.

    `cells` has the columns of CELL_COLUMNS; `outcomes` those of FRAME_COLUMNS, one row a recorded sample.
    """

    name: str
    state: str
    cells: pd.DataFrame
    outcomes: pd.DataFrame
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What a reader needs to trust the numbers: revision, versions, dates, store; printed as it is."""
    examples: Sequence[Mapping[str, str]] = ()
    """A few outcomes to look at, with their texts: `method`, `task`, `verdict`, `extracted`, `reason`, `completion`."""

    @property
    def num_planned(self) -> int:
        return int(self.cells["num_samples"].sum())

    @property
    def num_recorded(self) -> int:
        return len(self.outcomes)

    @property
    def is_complete(self) -> bool:
        return self.num_recorded >= self.num_planned


def cells_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Cell rows as a frame with every column of CELL_COLUMNS, absent ones null."""
    frame = pd.DataFrame.from_records(list(rows))
    return _typed(frame.reindex(columns=[c.name for c in CELL_COLUMNS]))


def outcomes_frame(chunks: Iterable[Iterable[Mapping[str, Any]]]) -> pd.DataFrame:
    """Outcome rows, chunk by chunk, as a compact frame: repeated strings become categories."""
    frames = [_chunk(rows) for rows in chunks]
    frame = pd.concat(frames, ignore_index=True) if frames else _chunk(())
    for name in ("cell_key", "verdict", "failure_kind", "sample_key"):
        frame[name] = frame[name].fillna("").astype("category")
    return frame


def _chunk(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    columns = {name: [row.get(name) for row in rows] for name in FRAME_COLUMNS} if rows else {}
    frame = pd.DataFrame(columns, columns=list(FRAME_COLUMNS))
    for name in (*_NUMBERS, "recorded_at"):
        frame[name] = pd.to_numeric(frame[name]).astype("float64" if name in _EXACT else "float32")
    for name in ("seed", "index"):
        frame[name] = frame[name].astype("int64")
    return frame


_EXACT = ("score", "recorded_at")
_NUMBERS = (
    "score",
    "density_prefill",
    "density_decode",
    "kv_kept",
    "num_prompt_tokens",
    "num_output_tokens",
    "seconds_to_first_token",
    "seconds_decode",
    "seconds_total",
)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    for name in ("num_parameters_b", "compression"):
        frame[name] = pd.to_numeric(frame[name]).astype("float64")
    for name in ("length_tokens", "seed", "num_samples"):
        frame[name] = frame[name].fillna(0).astype("int64")
    for name in ("budget", "method", "phase", "state", "task", "model"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype(str)
    return frame


@dataclass(frozen=True, slots=True)
class ScoreMatrix:
    """Scores of points on samples, aligned so that column j is the same sample for comparable points.

    `points` has one row for each matrix row: POINT_COLUMNS, phase, compression, num_parameters_b, num_planned.
    """

    points: pd.DataFrame
    scores: Array
    """[points, samples]; NaN where unscored or missing; 0 where unanswered."""
    recorded: npt.NDArray[np.bool_]
    """[points, samples]; True where an outcome exists."""
    unanswered: npt.NDArray[np.bool_]
    """[points, samples]; True where the completion held no answer."""
    sample_codes: npt.NDArray[np.int32]
    """[points, samples]; a number for each sample_key, −1 where missing: pairs need equal numbers."""


def score_matrix(frames: CampaignFrames) -> ScoreMatrix:
    """Gather all outcomes of a campaign into one matrix; rows are ordered as the cells are."""
    points, point_of_cell = _points(frames.cells)
    outcomes = frames.outcomes
    keys = outcomes["cell_key"].cat
    lookup = pd.Series(point_of_cell, index=frames.cells["cell_key"].to_numpy())
    point_of_category = lookup.reindex(keys.categories).fillna(-1).to_numpy().astype(np.int64)
    rows = point_of_category[keys.codes.to_numpy()] if len(outcomes) else np.zeros(0, dtype=np.int64)
    known = rows >= 0
    seeds = pd.factorize(outcomes["seed"], sort=True)[0]
    width = int(outcomes["index"].max()) + 1 if len(outcomes) else 1
    columns = seeds * width + outcomes["index"].to_numpy()
    return _fill(points, outcomes[known], rows[known], columns[known])


def _points(cells: pd.DataFrame) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    codes = cells.groupby(list(POINT_COLUMNS), sort=False, dropna=False).ngroup().to_numpy()
    first = cells.assign(point=codes).drop_duplicates("point").set_index("point").sort_index()
    points = first[[*POINT_COLUMNS, "phase", "compression", "num_parameters_b", "method_choice"]].copy()
    planned = cells["num_samples"].groupby(codes).sum()
    points["num_planned"] = planned.reindex(points.index).to_numpy()
    return points.reset_index(drop=True), codes.astype(np.int64)


def _fill(
    points: pd.DataFrame, outcomes: pd.DataFrame, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> ScoreMatrix:
    used, packed = np.unique(columns, return_inverse=True)
    shape = (len(points), max(1, len(used)))
    scores = np.full(shape, np.nan)
    recorded = np.zeros(shape, dtype=np.bool_)
    unanswered = np.zeros(shape, dtype=np.bool_)
    samples = np.full(shape, -1, dtype=np.int32)
    verdicts = outcomes["verdict"].astype(str).to_numpy()
    values = np.where(verdicts == "unscored", np.nan, outcomes["score"].to_numpy())
    scores[rows, packed] = np.where((verdicts == "unanswered") & np.isnan(values), 0.0, values)
    recorded[rows, packed] = True
    unanswered[rows, packed] = verdicts == "unanswered"
    samples[rows, packed] = pd.factorize(outcomes["sample_key"].astype(str))[0]
    return ScoreMatrix(points, scores, recorded, unanswered, samples)


def measured_density(frames: CampaignFrames) -> pd.DataFrame:
    """Means over the samples of each cell of density_prefill, density_decode, kv_kept and the times; index cell_key."""
    numbers = [n for n in _NUMBERS if n != "score"]
    return frames.outcomes.groupby("cell_key", observed=True)[numbers].mean()


def point_measurements(frames: CampaignFrames) -> pd.DataFrame:
    """`measured_density` averaged over the cells of each point; index POINT_COLUMNS."""
    cells = frames.cells[["cell_key", *POINT_COLUMNS]].merge(
        measured_density(frames), left_on="cell_key", right_index=True, how="left"
    )
    return cells.drop(columns="cell_key").groupby(list(POINT_COLUMNS), dropna=False, sort=False).mean()
