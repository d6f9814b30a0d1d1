"""What `frontier status --json` and `frontier run --json` print; schema in docs/status.md.

Stable: fields are added, never renamed or removed, within one `schema` number.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from orchestrator.analysis.from_counters import interval_from_counters
from orchestrator.store.rows import CampaignSnapshot, CellRow, WorkerRow

SCHEMA = 1

COLUMNS = (
    *("task", "length", "model", "method", "budget", "n", "unscored", "score", "95 % interval"),
    *("density prefill", "density decode", "kv kept", "tokens/s"),
)
WORKER_FIELDS = (
    *("name", "model_name", "engine", "device", "executor", "num_weight_loads", "load_seconds"),
    *("kv_capacity_tokens", "num_outcomes"),
)


def status_document(snapshot: CampaignSnapshot) -> dict[str, Any]:
    """One campaign as JSON, enough to rebuild the table."""
    header = snapshot.header
    return {
        "schema": SCHEMA,
        "campaign": header.name,
        "state": str(header.state),
        "samples": {
            "total": header.num_samples,
            "recorded": header.num_recorded,
            "correct": header.num_correct,
            "incorrect": header.num_incorrect,
            "unanswered": header.num_unanswered,
            "unscored": header.num_unscored,
            "failed": header.num_failed,
        },
        "shards": {str(state): count for state, count in header.shards.items()},
        "engine_loads": sum(worker.num_weight_loads for worker in snapshot.workers),
        "workers": [_worker(worker) for worker in snapshot.workers],
        "cells": [_cell(cell) for cell in snapshot.cells],
    }


def _worker(worker: WorkerRow) -> dict[str, Any]:
    return {"state": str(worker.state), **{name: getattr(worker, name) for name in WORKER_FIELDS}}


def _cell(cell: CellRow) -> dict[str, Any]:
    interval = interval_from_counters(cell.num_scored, cell.score_sum, cell.score_square_sum)
    return {
        "key": cell.key,
        "model": cell.model_name,
        "task": cell.task_label,
        "length_tokens": cell.length_tokens,
        "seed": cell.seed,
        "method": cell.method_label,
        "budget": cell.budget,
        "parameters": cell.method,
        "compression": cell.compression,
        "samples": cell.num_samples,
        "n": cell.num_recorded,
        "unanswered": cell.num_unanswered,
        "unscored": cell.num_unscored,
        "failed": cell.num_failed,
        "score": cell.score,
        "score_low": interval.low if interval else None,
        "score_high": interval.high if interval else None,
        "density_prefill": cell.density_prefill,
        "density_decode": cell.density_decode,
        "kv_kept": cell.kv_kept,
        "tokens_per_second": tokens_per_second(cell),
        "prompt_tokens": cell.prompt_tokens,
        "cached_tokens": cell.cached_tokens,
        "output_tokens": cell.output_tokens,
        "seconds_total": cell.seconds_total_sum,
    }


def tokens_per_second(cell: CellRow) -> float | None:
    """Prompt and output tokens of the cell over the wall-clock between its first submission and its last outcome."""
    if cell.first_recorded_at is None or cell.last_recorded_at is None or not cell.num_recorded:
        return None
    mean_seconds = cell.seconds_total_sum / cell.num_recorded
    span = cell.last_recorded_at - cell.first_recorded_at + mean_seconds
    return (cell.prompt_tokens + cell.output_tokens) / span if span > 0 else None


def cell_rows_of(document: dict[str, Any]) -> list[list[str | Text]]:
    """The table's rows, from the document alone."""
    return [
        [
            cell["task"],
            str(cell["length_tokens"]),
            cell["model"],
            cell["method"],
            cell["budget"] or "–",
            f"{cell['n']}/{cell['samples']}",
            str(cell["unscored"]),
            _number(cell["score"], 3),
            "–" if cell["score_low"] is None else f"{cell['score_low']:.2f} – {cell['score_high']:.2f}",
            _number(cell["density_prefill"], 3),
            _number(cell["density_decode"], 3),
            _number(cell["kv_kept"], 3),
            _number(cell["tokens_per_second"], 0),
        ]
        for cell in document["cells"]
    ]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
