"""A dump's rows by the documented column names, streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.analysis.columns import OUTCOME_COLUMNS
from orchestrator.analysis.frame import DENSE
from orchestrator.analysis.labels import cell_compression, parameters_b, phase_label
from orchestrator.errors import StoreError
from orchestrator.store.dump import Dump

FROM_CELL = ("campaign", "cell_key", "model", "method", "budget", "compression", "task", "length_tokens", "seed")
"""Columns of an outcome that its cell gives."""
RENAMED = {"index": "sample_index"}
"""Documented name → name in the store, where they differ."""


def cell_records(dump: Dump) -> Iterator[dict[str, Any]]:
    """Cells by the names of CELL_COLUMNS."""
    for row in dump.tables["cells"]:
        yield {
            "campaign": dump.campaign["name"],
            "cell_key": row["key"],
            "model": row["model_name"],
            "num_parameters_b": parameters_b(row["model_name"]),
            "method": row["method_label"] or DENSE,
            "phase": phase_label(row["method"]),
            "budget": row["budget"],
            "compression": row["compression"] or cell_compression(row["method"], row["length_tokens"]),
            "method_choice": json.dumps(row["method"], sort_keys=True),
            "task": row["task_label"] or row["task"],
            "task_version": row["task_order"]["version"],
            "length_tokens": row["length_tokens"],
            "seed": row["seed"],
            "num_samples": row["num_samples"],
            "state": "done" if row["num_recorded"] >= row["num_samples"] else "open",
        }


def outcome_records(dump: Dump) -> Iterator[dict[str, Any]]:
    """Outcomes by the names of OUTCOME_COLUMNS, ordered by (cell, index). Raises StoreError for one without a cell."""
    records = zip(dump.tables["cells"], cell_records(dump), strict=True)
    shared = {row["id"]: {name: cell[name] for name in FROM_CELL} for row, cell in records}
    own = [(c.name, RENAMED.get(c.name, c.name)) for c in OUTCOME_COLUMNS if c.name not in FROM_CELL]
    for row in dump.outcomes():
        if row["cell_id"] not in shared:
            raise StoreError(f"the store is damaged: an outcome is of cell {row['cell_id']!r}, which is not there")
        values = shared[row["cell_id"]] | {name: row.get(source) for name, source in own}
        values["failure_kind"] = row["failure_kind"] or ""
        yield values


def stored_outcome(record: Mapping[str, Any], cell_ids: Mapping[str, int]) -> dict[str, Any]:
    """The inverse for import: the store's row, its cell found by key."""
    row = {RENAMED.get(c.name, c.name): record[c.name] for c in OUTCOME_COLUMNS if c.name not in FROM_CELL}
    row["cell_id"] = cell_ids[record["cell_key"]]
    row["failure_kind"] = record["failure_kind"] or None
    extras = record["extras"]
    row["extras"] = json.loads(extras) if isinstance(extras, str) else extras
    return row
