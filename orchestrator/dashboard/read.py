"""From the store's rows to a snapshot."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.dashboard import wording
from orchestrator.dashboard.forecast import CellRecord, by_speed, forecast
from orchestrator.dashboard.snapshot import (
    CellView,
    Eta,
    EventView,
    FailureCount,
    FailureView,
    Header,
    Snapshot,
    WorkerView,
)
from orchestrator.domain.cost_correction import Kind
from orchestrator.domain.eta import rough_seconds
from orchestrator.domain.states import ShardState
from orchestrator.store.screen import Counters, ScreenNames, ScreenRows, read_screen
from orchestrator.store.session import Store

Row = Mapping[str, Any]
FORECAST_SECONDS = 10.0
"""Age at which a forecast is made anew: it reads the whole record."""
SPEED_SECONDS = 5.0
"""Shortest span over which a worker's tokens per second are measured."""
_ANSWERS = {
    "again": "tried again",
    "isolate": "suspects run alone",
    "fewer": "again, fewer in flight",
    "record": "recorded",
    "quarantine": "quarantined",
    "fail": "shard failed",
    "cancel": "cancelled",
}
"""What followed from a failure, in a person's words."""
_SHARD_STATES = frozenset(ShardState)
_RETRIED = frozenset({"again", "isolate", "fewer"})
_GONE = frozenset({"lost", "stopped", "broken"})


class SnapshotSource:
    """Reads one campaign again and again; remembers what speeds are measured from. For one thread."""

    def __init__(self, store: Store, campaign: str | None) -> None:
        self._store = store
        self._campaign = campaign
        self._names: ScreenNames | None = None
        self._cells: dict[int, Row] = {}
        self._views = CellViews()
        self._tokens: dict[int, list[tuple[float, int]]] = {}
        self._eta: Eta | None = None
        self._eta_made = float("-inf")

    def __call__(self) -> Snapshot:
        rows = read_screen(self._store, self._campaign, self._names)
        if rows.names is not self._names:
            self._names = rows.names
            self._cells = {cell["id"]: cell for cell in rows.names.cells}
        cells = self._views.of(rows)
        workers = tuple(self._worker_view(row, rows) for row in rows.workers)
        present = tuple(sorted(workers, key=lambda worker: worker.state in _GONE))
        return Snapshot(
            header=_header(rows, cells, workers, self._store.url, self._forecast(rows)),
            cells=cells,
            workers=present,
            failures=tuple(_failure_view(row) for row in rows.failures),
            failure_counts=_failure_counts(rows),
            events=tuple(_event_view(row, self._cells) for row in rows.events),
        )

    def _forecast(self, rows: ScreenRows) -> Eta | None:
        """The latest forecast, less the time since it was made."""
        age = time.monotonic() - self._eta_made
        if age >= FORECAST_SECONDS:
            self._eta, self._eta_made, age = eta(rows), time.monotonic(), 0.0
        if self._eta is None:
            return None
        return Eta(
            low_seconds=max(0.0, self._eta.low_seconds - age), high_seconds=max(0.0, self._eta.high_seconds - age)
        )

    def _worker_view(self, row: Row, rows: ScreenRows) -> WorkerView:
        running = [a for a in rows.open_attempts if a["worker_id"] == row["id"]]
        gpus = 0 if _on_cpu(row) else rows.names.gpus_of_engine.get(row["engine_key"], 1)
        state = _worker_state(row, bool(running))
        return WorkerView(
            name=str(row["name"]).removeprefix(f"{rows.campaign['name']}-"),
            host=row["node"] or wording.ABSENT,
            gpus=f"{gpus}×" if gpus else row["device"] or wording.ABSENT,
            engine=row["model_name"] + (f" tp{gpus}" if gpus > 1 else ""),
            state=state,
            shard=cell_label(self._cells[running[0]["cell_id"]]) if running else "",
            shard_done=sum(a["num_recorded"] for a in running),
            shard_samples=sum(a["num_ordered"] for a in running),
            num_in_flight=row["num_in_flight"],
            tokens_per_second=None if state in _GONE else self._speed(row),
            kv_use=None if state in _GONE else row["kv_use"],
            heartbeat_age_seconds=max(0.0, rows.campaign["store_now"] - row["seen_at"]),
            num_recorded=row["num_outcomes"],
        )

    def _speed(self, row: Row) -> float | None:
        """Tokens per second between two heartbeats of the worker, some seconds apart."""
        readings = self._tokens.setdefault(row["id"], [])
        if not readings or row["seen_at"] > readings[-1][0]:
            readings.append((row["seen_at"], row["num_tokens"]))
        while len(readings) > 2 and readings[-1][0] - readings[1][0] >= SPEED_SECONDS:
            readings.pop(0)
        span = readings[-1][0] - readings[0][0]
        return float(readings[-1][1] - readings[0][1]) / span if span > 0 else None


def _on_cpu(row: Row) -> bool:
    """No GPU, or none known yet: an engine says what it runs on once it is loaded."""
    device = str(row["device"]).lower()
    return device in ("", "none") or "cpu" in device


def _worker_state(row: Row, has_shard: bool) -> str:
    if str(row["state"]) == "ready":
        return "busy" if has_shard or row["num_in_flight"] else "idle"
    return str(row["state"])


def cell_label(row: Row) -> str:
    """A cell in one line: method, budget, task, length."""
    method = " ".join(part for part in (row["method_label"], short_budget(row["budget"])) if part)
    return f"{method} · {row['task_label']} · {wording.length(row['length_tokens'])}"


def short_budget(budget: str) -> str:
    """`token_budget=256+top_blocks=16` → `256+16`: the method says which knob it is."""
    return "+".join(part.split("=", 1)[-1] for part in budget.split("+")) if budget else ""


class CellViews:
    """The cells in the order of the grid; a cell whose counters stand still is not made anew."""

    def __init__(self) -> None:
        self._made: tuple[CellView, ...] = ()
        self._from: list[tuple[Counters, int]] = []

    def of(self, rows: ScreenRows) -> tuple[CellView, ...]:
        leased = Counter(attempt["cell_id"] for attempt in rows.open_attempts)
        now = [(c, leased.get(n["id"], 0)) for n, c in zip(rows.names.cells, rows.counters, strict=True)]
        before = (
            zip(self._from, self._made, strict=True) if len(self._from) == len(now) else ((None, None) for _ in now)
        )
        self._made = tuple(
            view if view is not None and current == last else _cell_view(name, *current)
            for name, current, (last, view) in zip(rows.names.cells, now, before, strict=True)
        )
        self._from = now
        return self._made


def _cell_view(name: Row, counts: Counters, num_leased: int) -> CellView:
    return CellView(
        key=name["key"],
        model=name["model_name"],
        method=name["method_label"],
        budget=short_budget(name["budget"]),
        task=name["task_label"],
        length_tokens=name["length_tokens"],
        seed=name["seed"],
        num_samples=name["num_samples"],
        num_recorded=counts.num_recorded,
        num_scored=counts.num_scored,
        num_unanswered=counts.num_unanswered,
        num_failed=counts.num_unscored,
        score_sum=counts.score_sum,
        num_leased_shards=num_leased,
    )


def eta(rows: ScreenRows) -> Eta | None:
    """The forecast from the record; from the recent speed alone where engines report no seconds."""
    in_flight = [tick["num_in_flight"] for tick in rows.ticks]
    records = [
        CellRecord(
            kind=Kind(
                model=name["model_name"],
                length_tokens=name["length_tokens"],
                method=name["method_label"],
                task=name["task_label"],
            ),
            num_left=name["num_samples"] - counts.num_recorded,
            num_recorded=counts.num_recorded,
            seconds_sum=counts.seconds_total_sum,
            predicted_seconds=rough_seconds(name["length_tokens"], name["max_output_tokens"]),
        )
        for name, counts in zip(rows.names.cells, rows.counters, strict=True)
    ]
    known = forecast(records, sum(in_flight) / len(in_flight) if in_flight else 0.0)
    return known or by_speed(sum(r.num_left for r in records), rows.ticks)


def _header(
    rows: ScreenRows, cells: Sequence[CellView], workers: Sequence[WorkerView], store: str, left: Eta | None
) -> Header:
    campaign = rows.campaign
    state = str(campaign["state"])
    gpus = {w["id"]: rows.names.gpus_of_engine.get(w["engine_key"], 1) for w in rows.workers if not _on_cpu(w)}
    alive = [w for w in workers if w.state not in _GONE]
    return Header(
        campaign=campaign["name"],
        state=state,
        is_driven=(campaign["orchestrator_until"] or 0.0) > campaign["store_now"],
        store=store,
        taken_at=_utc(campaign["store_now"]),
        started_at=_utc(campaign["started_at"]) if campaign["started_at"] else None,
        finished_at=_utc(campaign["finished_at"]) if campaign["finished_at"] else None,
        num_samples=sum(c.num_samples for c in cells),
        num_recorded=sum(c.num_recorded for c in cells),
        num_scored=sum(c.num_scored for c in cells),
        num_unanswered=sum(c.num_unanswered for c in cells),
        num_failed=sum(c.num_failed for c in cells),
        num_retries=sum(row["num"] for row in rows.failure_counts if row["answer"] in _RETRIED),
        samples_per_second=_speed_of(rows.ticks, "num_recorded"),
        tokens_per_second=_tokens_per_second(rows.ticks),
        eta=left,
        num_workers=len(alive),
        num_busy_workers=sum(w.state == "busy" for w in alive),
        num_gpus=sum(gpus.get(row["id"], 0) for row, w in zip(rows.workers, workers, strict=True) if w in alive),
        gpu_busy_share=_busy_share(gpus, rows.workers, workers),
    )


def _busy_share(gpus: Mapping[int, int], rows: Sequence[Row], workers: Sequence[WorkerView]) -> float | None:
    held = [
        (gpus.get(r["id"], 0), w.num_in_flight > 0) for r, w in zip(rows, workers, strict=True) if w.state not in _GONE
    ]
    total = sum(number for number, _ in held)
    return sum(number for number, busy in held if busy) / total if total else None


def _speed_of(ticks: Sequence[Row], column: str) -> float | None:
    if len(ticks) < 2 or ticks[-1]["at"] <= ticks[0]["at"]:
        return None
    return float((ticks[-1][column] - ticks[0][column]) / (ticks[-1]["at"] - ticks[0]["at"]))


def _tokens_per_second(ticks: Sequence[Row]) -> float | None:
    parts = [_speed_of(ticks, column) for column in ("prompt_tokens", "output_tokens")]
    return sum(p for p in parts if p is not None) if None not in parts else None


def _failure_view(row: Row) -> FailureView:
    place = cell_label(row) if row["method_label"] else row["worker"] or row["place"]
    if row["sample_index"] is not None:
        place += f" #{row['sample_index']}"
    consequence = _ANSWERS.get(row["answer"], str(row["answer"]))
    return FailureView(
        at=_utc(row["at"]),
        kind=str(row["kind"]),
        place=place,
        message=row["message"],
        consequence=consequence if row["charged"] or row["answer"] not in _RETRIED else f"{consequence}, not charged",
    )


def _failure_counts(rows: ScreenRows) -> tuple[FailureCount, ...]:
    totals: Counter[str] = Counter()
    for row in rows.failure_counts:
        totals[str(row["kind"])] += row["num"]
    return tuple(FailureCount(kind=kind, num=num) for kind, num in totals.most_common())


def _event_view(row: Row, cells: Mapping[int, Row]) -> EventView:
    kind = row["kind"].replace("_", " ")
    cell = cells.get(row["cell_id"])
    parts = [row["worker"], cell_label(cell) if cell else None, row["message"]]
    return EventView(
        at=_utc(row["at"]),
        kind=f"shard {kind}" if kind in _SHARD_STATES else kind,
        text=": ".join(part for part in parts if part),
        sequence=row["id"],
    )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
