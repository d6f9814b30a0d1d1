"""A campaign from the store as frames. Rows stream in; only what analyses need is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.columns import CELL_COLUMNS, OUTCOME_COLUMNS
from orchestrator.analysis.frame import DENSE, CampaignFrames, cells_frame, measured_density, outcomes_frame
from orchestrator.analysis.labels import cell_compression, parameters_b, phase_label
from orchestrator.store import views
from orchestrator.store.dump import example_outcomes
from orchestrator.store.rows import CampaignHeader, CellRow, OutcomeRow
from orchestrator.store.session import Store

CHUNK_ROWS = 20_000
MEASURED_COMPRESSION_DIGITS = 3


def load_campaign(store: Store, name: str | None = None) -> CampaignFrames:
    """The campaign `name`, or the newest. Raises UnknownCampaign."""
    header = views.campaign_header(store, name)
    rows = views.cell_rows(store, header.name)
    cells = cells_frame(cell_record(header.name, row) for row in rows)
    outcomes = outcomes_frame(_chunks(store, header.name, {row.key: row.seed for row in rows}))
    frames = CampaignFrames(
        name=header.name,
        state=str(header.state),
        cells=cells,
        outcomes=outcomes,
        provenance=provenance(store, header, rows),
        examples=examples(store, header.name),
    )
    fill_measured_compression(frames)
    return frames


def _chunks(store: Store, name: str, seeds: Mapping[str, int]) -> Iterator[list[dict[str, Any]]]:
    stream = (outcome_record(row) | {"seed": seeds[row.cell_key]} for row in views.iter_outcomes(store, name))
    while chunk := list(islice(stream, CHUNK_ROWS)):
        yield chunk


def cell_record(campaign: str, row: CellRow) -> dict[str, Any]:
    """One cell by the names of CELL_COLUMNS."""
    values = {
        "campaign": campaign,
        "cell_key": row.key,
        "model": row.model_name,
        "num_parameters_b": parameters_b(row.model_name),
        "method": row.method_label or DENSE,
        "phase": phase_label(row.method),
        "budget": row.budget,
        "compression": row.compression or cell_compression(row.method, row.length_tokens),
        "method_choice": json.dumps(row.method, sort_keys=True),
        "task": row.task_label or row.task.name,
        "task_version": row.task.version,
        "length_tokens": row.length_tokens,
        "seed": row.seed,
        "num_samples": row.num_samples,
        "state": "done" if row.num_recorded >= row.num_samples else "open",
    }
    return {column.name: values[column.name] for column in CELL_COLUMNS}


def outcome_record(row: OutcomeRow) -> dict[str, Any]:
    """One outcome by the names of OUTCOME_COLUMNS, without those that follow from its cell."""
    own = {c.name: getattr(row, c.name) for c in OUTCOME_COLUMNS if hasattr(row, c.name) and c.name != "index"}
    own["index"] = row.sample_index
    own["failure_kind"] = str(row.failure_kind) if row.failure_kind else ""
    return own


def fill_measured_compression(frames: CampaignFrames) -> None:
    """Give cells without a nominal compression 1 / (mean measured density) of their (method, budget, length).

    The mean is over models and tasks, so that points which share a budget share a compression. A method that
    acts in several phases gets 1 / the geometric mean of their densities.
    """
    cells = frames.cells
    missing = cells["compression"].isna().to_numpy()
    if not missing.any() or frames.outcomes.empty:
        return
    density = measured_density(frames).reindex(cells["cell_key"])
    logs, acting = np.zeros(len(cells)), np.zeros(len(cells))
    for column, phase in (("density_prefill", "prefill"), ("density_decode", "decode"), ("kv_kept", "compress")):
        acts = cells["phase"].str.contains(phase).to_numpy()
        logs += np.where(acts, np.log(density[column].astype("float64").clip(1e-9, 1).to_numpy()), 0.0)
        acting += acts
    keys = [cells[c] for c in ("method", "budget", "length_tokens")]
    mean = np.exp(pd.Series(logs / np.maximum(acting, 1)).groupby(keys).transform("mean").to_numpy())
    rounded = [float(f"{1 / d:.{MEASURED_COMPRESSION_DIGITS}g}") if d > 0 else np.nan for d in mean]
    cells.loc[missing, "compression"] = np.array(rounded)[missing]


def provenance(store: Store, header: CampaignHeader, cells: tuple[CellRow, ...]) -> Mapping[str, str]:
    """What a reader needs to trust the numbers, as text."""
    models = sorted({f"{c.model_name} ({c.engine.model_fingerprint or 'no fingerprint'})" for c in cells})
    tasks = sorted({f"{c.task.name} v{c.task.version}, scoring {c.task.scoring}" for c in cells})
    return {
        "store": store.url,
        "state": str(header.state),
        "spec hash": header.spec_hash,
        "code revision": header.code_revision,
        "engine": header.engine_name,
        "created": _when(header.created_at),
        "started": _when(header.started_at),
        "finished": _when(header.finished_at),
        "read": _when(header.store_now),
        "models": "; ".join(models),
        "tasks": "; ".join(tasks),
        "seeds": ", ".join(str(seed) for seed in sorted({c.seed for c in cells})),
    }


def examples(store: Store, name: str, each: int = 3) -> list[Mapping[str, str]]:
    """A few completions without an answer, and a few wrong and right ones."""
    names = {"model": "model_name", "method": "method_label", "task": "task_label", "completion": "text"}
    same = ("verdict", "budget", "extracted", "reason")
    return [
        {key: str(row[column]) for key, column in (*names.items(), *zip(same, same, strict=True))}
        for verdict in ("unanswered", "incorrect", "correct")
        for row in example_outcomes(store, name, verdict, each)
    ]


def _when(seconds: float | None) -> str:
    return "–" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
