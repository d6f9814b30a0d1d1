"""What a point costs in theory, beside what it took, and where a larger sparse model undercuts a smaller dense one.

Prefill is counted in operations and decode in bytes read, as v2/v3 of the paper do; both come from
`orchestrator.domain.flops`, index costs included. Densities are the measured ones where an outcome gave
them, else 1 / nominal compression.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sparsekernels.parameters import MethodChoice, ParameterError

from orchestrator.analysis.frame import POINT_COLUMNS
from orchestrator.domain.flops import (
    Formula,
    ModelShape,
    decode_flops_v1,
    decode_traffic,
    prefill_flops,
)
from orchestrator.domain.model_shapes import known_shape

BYTES_PER_ELEMENT = 2
"""bf16, for weights and cache."""
COST_COLUMNS = ("prefill_flops", "prefill_index_flops", "decode_bytes", "decode_index_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSettings:
    """Under which assumptions costs are counted."""

    formula: Formula = Formula.EXECUTED
    batch: int = 1
    """Requests that share one reading of the weights in decode."""


@dataclass(frozen=True, slots=True)
class PointCost:
    """Theory for one request of one point; decode figures are for one generated token."""

    prefill_flops: float
    prefill_index_flops: float
    decode_bytes: float
    decode_index_bytes: float


def cost_table(
    points: pd.DataFrame,
    measured: pd.DataFrame | None = None,
    *,
    settings: CostSettings | None = None,
    shapes: Mapping[str, ModelShape] | None = None,
) -> pd.DataFrame:
    """`points` with COST_COLUMNS added, and the measured times where `measured` (see point_measurements) has them.

    Models of unknown shape get NaN. `shapes` adds to, or overrides, the known ones by model name.
    """
    settings = settings or CostSettings()
    table = points.copy()
    if measured is not None:
        extra = measured.drop(columns=[c for c in measured.columns if c in table.columns])
        table = table.merge(extra, left_on=list(POINT_COLUMNS), right_index=True, how="left")
    columns = ["density_prefill", "density_decode", "kv_kept"]
    table = table.assign(**{c: np.nan for c in columns if c not in table.columns})
    models = {
        str(model): (shapes or {}).get(str(model)) or known_shape(str(model)) for model in table["model"].unique()
    }
    costs = [_row_cost(row, models[str(row["model"])], settings) for row in table.to_dict("records")]
    return table.assign(**{name: [getattr(cost, name) for cost in costs] for name in COST_COLUMNS})


def _row_cost(row: Mapping[str, object], shape: ModelShape | None, settings: CostSettings) -> PointCost:
    if shape is None:
        return PointCost(*(float("nan") for _ in COST_COLUMNS))
    choice = _choice(row.get("method_choice"))
    acts = str(row["phase"]).split("+")
    prefill = _density(row, "density_prefill", "prefill" in acts)
    reads = _density(row, "density_decode", "decode" in acts)
    kept = _density(row, "kv_kept", "compress" in acts)
    length = int(str(row["length_tokens"]))
    decode = reads if "decode" in acts else kept
    return request_cost(shape, length, choice, prefill, decode, settings)


def _choice(wire: object) -> MethodChoice:
    try:
        return MethodChoice.from_wire(json.loads(wire) if isinstance(wire, str) else {})
    except ParameterError:
        return MethodChoice()


def _density(row: Mapping[str, object], measured: str, acts: bool) -> float:
    if not acts:
        return 1.0
    value = float(row.get(measured) or "nan")  # type: ignore[arg-type]
    if not np.isnan(value):
        return value
    compression = float(row.get("compression") or "nan")  # type: ignore[arg-type]
    return 1.0 / compression


def request_cost(
    shape: ModelShape,
    length_tokens: int,
    choice: MethodChoice,
    prefill_density: float,
    decode_density: float,
    settings: CostSettings,
) -> PointCost:
    """Operations of one prefill, and bytes read for each generated token, of one request among `settings.batch`.

    With PRINTED_V1 the decode columns are operations, as that version has it.
    """
    prefill = prefill_flops(shape, length_tokens, density=prefill_density, method=choice, formula=settings.formula)
    if settings.formula is Formula.PRINTED_V1:
        step = decode_flops_v1(shape, length_tokens, density=decode_density)
        return PointCost(prefill.total, prefill.index, step, 0.0)
    traffic = decode_traffic(
        shape,
        length_tokens,
        density=decode_density,
        method=choice,
        batch=settings.batch,
        formula=settings.formula,
    )
    share = BYTES_PER_ELEMENT / settings.batch
    return PointCost(prefill.total, prefill.index, traffic.total * share, traffic.index * share)


def crossing_length(
    small: ModelShape,
    large: ModelShape,
    *,
    density: float = 0.05,
    method: MethodChoice | None = None,
    formula: Formula = Formula.AUDITED,
    limit_tokens: int = 10_000_000,
) -> float | None:
    """Prompt length from which the large model's sparse prefill costs no more than the small one's dense prefill.

    None when that does not happen below `limit_tokens`.
    """

    def excess(length: float) -> float:
        sparse = prefill_flops(large, round(length), density=density, method=method, formula=formula).total
        return sparse - prefill_flops(small, round(length), formula=formula).total

    low, high = 1.0, float(limit_tokens)
    if excess(high) > 0:
        return None
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def break_even_batch(
    small: ModelShape,
    large: ModelShape,
    length_tokens: int,
    *,
    density: float = 0.05,
    method: MethodChoice | None = None,
    formula: Formula = Formula.AUDITED,
) -> float | None:
    """Batch from which the large model's sparse decode step reads no more than the small one's dense step.

    Weights are read once a step, caches once a request, so a batch large enough pays for larger weights;
    None when the large model's cache reading alone exceeds the small one's.
    """
    dense = decode_traffic(small, length_tokens, formula=formula)
    sparse = decode_traffic(large, length_tokens, density=density, method=method, formula=formula)
    saved = dense.kv_cache - sparse.kv_cache - sparse.index
    return (sparse.weights - dense.weights) / saved if saved > 0 else None


def break_even_length(
    small: ModelShape,
    large: ModelShape,
    batch: int,
    *,
    density: float = 0.05,
    method: MethodChoice | None = None,
    formula: Formula = Formula.AUDITED,
) -> float | None:
    """Context length, tokens, from which `break_even_batch` is at most `batch`: cache reads grow linearly with it."""
    at = 1 << 20
    needed = break_even_batch(small, large, at, density=density, method=method, formula=formula)
    return None if needed is None else needed * at / batch
