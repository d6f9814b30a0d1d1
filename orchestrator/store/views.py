"""Reading a store: typed records for screens, tables and analyses. Queries never write, and count no outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from orchestrator.domain.states import ShardState
from orchestrator.store.dialect import now_seconds
from orchestrator.store.engine_record import engine_from_json, task_from_json
from orchestrator.store.naming import UnknownCampaign, find_campaign
from orchestrator.store.rows import (
    CampaignHeader,
    CampaignSnapshot,
    CellRow,
    EventRow,
    FailureRow,
    Rates,
    WorkerRow,
)
from orchestrator.store.schema import (
    attempts,
    campaigns,
    cells,
    events,
    failures,
    shards,
    ticks,
    workers,
)
from orchestrator.store.session import Store
from orchestrator.store.stream import iter_outcomes

RATE_WINDOW_SECONDS = 60.0
LARGEST = 2**63 - 1
"""Number that a database takes."""


def campaign_names(store: Store) -> list[str]:
    """All campaigns, oldest first."""
    with store.read() as connection:
        return list(connection.scalars(sa.select(campaigns.c.name).order_by(campaigns.c.id)))


def campaign_headers(store: Store) -> list[CampaignHeader]:
    """All campaigns with their totals, oldest first."""
    with store.read() as connection:
        ids = connection.scalars(sa.select(campaigns.c.id).order_by(campaigns.c.id)).all()
        return [_header(connection, campaign_id) for campaign_id in ids]


def campaign_snapshot(
    store: Store, name: str | None = None, *, num_events: int = 50, num_failures: int = 50
) -> CampaignSnapshot:
    """Everything about one campaign at one moment; the newest campaign when no name is given."""
    with store.read() as connection:
        campaign_id = find_campaign(connection, name)
        header = _header(connection, campaign_id)
        return CampaignSnapshot(
            header=header,
            cells=_cells(connection, campaign_id),
            workers=_workers(connection, campaign_id),
            events=_events(connection, campaign_id, num_events),
            failures=_failures(connection, campaign_id, num_failures),
            rates=_rates(connection, campaign_id),
        )


def campaign_header(store: Store, name: str | None = None) -> CampaignHeader:
    with store.read() as connection:
        return _header(connection, find_campaign(connection, name))


def cell_rows(store: Store, name: str | None = None) -> tuple[CellRow, ...]:
    """The cells in the order of the spec."""
    with store.read() as connection:
        return _cells(connection, find_campaign(connection, name))


def event_rows(store: Store, name: str | None = None, *, limit: int = 200, after: int = 0) -> tuple[EventRow, ...]:
    """The latest events, newest first; `after` is the id of the last one already seen."""
    with store.read() as connection:
        return _events(connection, find_campaign(connection, name), limit, after)


def failure_rows(
    store: Store, name: str | None = None, *, limit: int = 1000, charged_only: bool = False
) -> tuple[FailureRow, ...]:
    """The latest failures, newest first."""
    with store.read() as connection:
        return _failures(connection, find_campaign(connection, name), limit, charged_only)


def _header(connection: sa.Connection, campaign_id: int) -> CampaignHeader:
    counted = (
        "num_samples",
        "num_recorded",
        "num_correct",
        "num_incorrect",
        "num_unanswered",
        "num_unscored",
        "num_failed",
    )
    totals = (
        connection.execute(
            sa.select(
                sa.func.count().label("num_cells"),
                *(sa.cast(sa.func.coalesce(sa.func.sum(cells.c[c]), 0), sa.BigInteger).label(c) for c in counted),
            ).where(cells.c.campaign_id == campaign_id)
        )
        .mappings()
        .one()
    )
    row = (
        connection.execute(
            sa.select(*campaigns.c, now_seconds().label("store_now")).where(campaigns.c.id == campaign_id)
        )
        .mappings()
        .one()
    )
    kept = {k: row[k] for k in row if k not in ("orchestrator_until", "settings")}
    return CampaignHeader(
        **kept,
        **totals,
        orchestrator_alive=bool(row["orchestrator"]) and (row["orchestrator_until"] or 0.0) > row["store_now"],
        shards=shard_counts(connection, campaign_id),
    )


def shard_counts(connection: sa.Connection, campaign_id: int) -> dict[str, int]:
    """Number of shards in each state, zeros included."""
    counts = {str(state): 0 for state in ShardState}
    query = sa.select(shards.c.state, sa.func.count()).where(shards.c.campaign_id == campaign_id)
    counts.update({str(state): n for state, n in connection.execute(query.group_by(shards.c.state))})
    return counts


_NOT_IN_CELL_ROW = (
    "campaign_id",
    "engine_key",
    "engine",
    "task_order",
    "sampling",
    "num_measured",
    "num_density_decode",
    "density_prefill_sum",
    "density_decode_sum",
    "kv_kept_sum",
)


def _cells(connection: sa.Connection, campaign_id: int) -> tuple[CellRow, ...]:
    query = sa.select(cells).where(cells.c.campaign_id == campaign_id).order_by(cells.c.position)
    return tuple(_cell_row(row) for row in connection.execute(query).mappings())


def _cell_row(row: sa.RowMapping) -> CellRow:
    kept = {k: row[k] for k in row if k not in _NOT_IN_CELL_ROW and k != "task"}
    return CellRow(
        **kept,
        engine=engine_from_json(row["engine"]),
        task=task_from_json(row["task_order"]),
        density_prefill=_mean(row["density_prefill_sum"], row["num_measured"]),
        density_decode=_mean(row["density_decode_sum"], row["num_density_decode"]),
        kv_kept=_mean(row["kv_kept_sum"], row["num_measured"]),
    )


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _workers(connection: sa.Connection, campaign_id: int) -> tuple[WorkerRow, ...]:
    is_open = attempts.c.closed_at.is_(None)
    counts = (
        sa.select(attempts.c.worker_id, sa.func.count().label("n"))
        .where(attempts.c.campaign_id == campaign_id, is_open)
        .group_by(attempts.c.worker_id)
        .subquery()
    )
    query = (
        sa.select(workers, sa.func.coalesce(counts.c.n, 0).label("num_open_attempts"))
        .outerjoin(counts, counts.c.worker_id == workers.c.id)
        .where(workers.c.campaign_id == campaign_id)
        .order_by(workers.c.id)
    )
    return tuple(_worker_row(row) for row in connection.execute(query).mappings())


def _worker_row(row: sa.RowMapping) -> WorkerRow:
    facts: Mapping[str, Any] = row["facts"] or {}
    hidden = ("campaign_id", "engine_key", "facts", "good_until_attempt")
    return WorkerRow(
        **{k: row[k] for k in row if k not in hidden},
        engine=str(facts.get("engine", "")),
        executor=str(facts.get("executor", "")),
        kv_capacity_tokens=int(facts.get("kv_capacity_tokens", 0)),
    )


def _events(connection: sa.Connection, campaign_id: int, limit: int, after: int = 0) -> tuple[EventRow, ...]:
    query = (
        sa.select(
            *(events.c[c] for c in ("id", "at", "kind", "shard_id", "attempt_id", "message")),
            workers.c.name.label("worker"),
        )
        .outerjoin(workers, workers.c.id == events.c.worker_id)
        .where(events.c.campaign_id == campaign_id, events.c.id > min(after, LARGEST))
        .order_by(events.c.id.desc())
        .limit(min(limit, LARGEST))
    )
    return tuple(EventRow(**row) for row in connection.execute(query).mappings())


def _failures(
    connection: sa.Connection, campaign_id: int, limit: int, charged_only: bool = False
) -> tuple[FailureRow, ...]:
    own = ("id", "at", "kind", "answer", "charged", "shard_id", "attempt_id", "sample_index")
    texts = ("message", "detail", "reproduction")
    query = (
        sa.select(
            *(failures.c[c] for c in (*own, *texts)),
            failures.c.place.label("where"),
            cells.c.key.label("cell_key"),
            *(cells.c[c] for c in ("model_name", "task", "length_tokens", "method_label", "budget")),
            workers.c.name.label("worker"),
        )
        .outerjoin(cells, cells.c.id == failures.c.cell_id)
        .outerjoin(workers, workers.c.id == failures.c.worker_id)
        .where(failures.c.campaign_id == campaign_id, *([failures.c.charged] if charged_only else []))
        .order_by(failures.c.id.desc())
        .limit(min(limit, LARGEST))
    )
    return tuple(FailureRow(**row) for row in connection.execute(query).mappings())


def _rates(connection: sa.Connection, campaign_id: int) -> Rates:
    columns = (ticks.c.at, ticks.c.num_recorded, ticks.c.prompt_tokens, ticks.c.output_tokens, ticks.c.num_in_flight)
    query = sa.select(*columns).where(ticks.c.campaign_id == campaign_id).order_by(ticks.c.at.desc()).limit(240)
    rows = connection.execute(query).all()[::-1]
    if not rows:
        return Rates(
            window_seconds=0.0,
            samples_per_second=None,
            prompt_tokens_per_second=None,
            output_tokens_per_second=None,
            num_in_flight=0,
        )
    last = rows[-1]
    first = next(row for row in rows if row.at >= last.at - RATE_WINDOW_SECONDS)
    span = last.at - first.at

    def per_second(column: str) -> float | None:
        return (getattr(last, column) - getattr(first, column)) / span if span > 0 else None

    return Rates(
        window_seconds=span,
        samples_per_second=per_second("num_recorded"),
        prompt_tokens_per_second=per_second("prompt_tokens"),
        output_tokens_per_second=per_second("output_tokens"),
        num_in_flight=last.num_in_flight,
        history=tuple((r.at, r.num_recorded, r.prompt_tokens, r.output_tokens) for r in rows),
    )


__all__ = [
    "UnknownCampaign",
    "campaign_header",
    "campaign_headers",
    "campaign_names",
    "campaign_snapshot",
    "cell_rows",
    "event_rows",
    "failure_rows",
    "find_campaign",
    "iter_outcomes",
    "shard_counts",
]
