"""What a live screen reads again and again: counters only, in one transaction, as few bytes as possible.

The cells' names and the engines' sizes never change, so a screen reads them once and passes them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import sqlalchemy as sa

from orchestrator.store.dialect import now_seconds
from orchestrator.store.engine_record import engine_from_json
from orchestrator.store.schema import attempts, campaigns, cells, events, failures, shards, ticks, workers
from orchestrator.store.session import Store
from orchestrator.store.views import find_campaign

RATE_SECONDS = 300.0
"""Speed is measured over the last minutes, long enough to smooth over one long prompt."""
GONE_SECONDS = 600.0
"""How long a worker that stopped or was lost stays on the screen."""

ROUTINE_EVENTS = ("claimed",)
"""Kinds of events that come with every shard and would push everything else off a screen."""

Row = Mapping[str, Any]


class Counters(NamedTuple):
    """What a cell has counted; the names are those of the table."""

    num_recorded: int
    num_scored: int
    num_unanswered: int
    num_unscored: int
    score_sum: float
    seconds_total_sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenNames:
    """What does not change while a campaign exists."""

    campaign_id: int
    cells: tuple[Row, ...]
    """`id, key, model_name, method_label, budget, task_label, length_tokens, seed, num_samples`, in grid order."""
    gpus_of_engine: Mapping[str, int]
    """By engine key, on all its hosts together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenRows:
    """One reading; every row belongs to the same moment."""

    names: ScreenNames
    campaign: Row
    """`name, state, created_at, started_at, finished_at, orchestrator_until, store_now`."""
    counters: Sequence[Counters]
    """Of each cell of `names.cells`, in the same order."""
    workers: tuple[Row, ...]
    open_attempts: tuple[Row, ...]
    """`worker_id, cell_id, num_ordered, num_recorded` of the attempts that run."""
    events: tuple[Row, ...]
    failures: tuple[Row, ...]
    failure_counts: tuple[Row, ...]
    """`kind, answer, num` over the whole campaign."""
    ticks: tuple[Row, ...]
    """Cumulative totals of the last minutes, oldest first."""


def read_screen(
    store: Store, name: str | None, known: ScreenNames | None = None, *, num_latest: int = 60
) -> ScreenRows:
    """One reading of the campaign `name` (the newest without a name). Raises UnknownCampaign."""
    with store.read() as connection:
        campaign_id = known.campaign_id if known else find_campaign(connection, name)
        names = known or _names(connection, campaign_id)
        return ScreenRows(
            names=names,
            campaign=_campaign(connection, campaign_id),
            counters=_counters(connection, campaign_id),
            workers=_workers(connection, campaign_id),
            open_attempts=_open_attempts(connection, campaign_id),
            events=_latest(connection, _events(campaign_id), events.c.id, num_latest),
            failures=_latest(connection, _failures(campaign_id), failures.c.id, num_latest),
            failure_counts=_failure_counts(connection, campaign_id),
            ticks=_ticks(connection, campaign_id),
        )


def _all(connection: sa.Connection, query: sa.Select[Any]) -> tuple[Row, ...]:
    return cast(tuple[Row, ...], tuple(connection.execute(query).mappings()))


def _columns(table: sa.Table, names: str) -> Sequence[sa.Column[Any]]:
    return [table.c[name] for name in names.split()]


def _names(connection: sa.Connection, campaign_id: int) -> ScreenNames:
    wanted = "id key model_name method_label budget task_label length_tokens seed num_samples max_output_tokens"
    of_campaign = cells.c.campaign_id == campaign_id
    first = sa.select(sa.func.min(cells.c.id)).where(of_campaign).group_by(cells.c.engine_key)
    engines = connection.execute(sa.select(cells.c.engine_key, cells.c.engine).where(cells.c.id.in_(first)))
    return ScreenNames(
        campaign_id=campaign_id,
        cells=_all(connection, sa.select(*_columns(cells, wanted)).where(of_campaign).order_by(cells.c.position)),
        gpus_of_engine={key: engine_from_json(engine).num_gpus for key, engine in engines},
    )


def _campaign(connection: sa.Connection, campaign_id: int) -> Row:
    wanted = _columns(campaigns, "name state created_at started_at finished_at orchestrator_until")
    query = sa.select(*wanted, now_seconds().label("store_now")).where(campaigns.c.id == campaign_id)
    return cast(Row, connection.execute(query).mappings().one())


def _counters(connection: sa.Connection, campaign_id: int) -> Sequence[Counters]:
    query = sa.select(*_columns(cells, " ".join(Counters._fields))).where(cells.c.campaign_id == campaign_id)
    return [Counters._make(row) for row in connection.execute(query.order_by(cells.c.position))]


def _workers(connection: sa.Connection, campaign_id: int) -> tuple[Row, ...]:
    wanted = "id name state node device model_name engine_key started_at seen_at stopped_at num_in_flight num_tokens"
    present = workers.c.stopped_at.is_(None) | (workers.c.stopped_at > now_seconds() - GONE_SECONDS)
    query = sa.select(*_columns(workers, wanted + " kv_use num_outcomes"))
    return _all(connection, query.where(workers.c.campaign_id == campaign_id, present).order_by(workers.c.id))


def _open_attempts(connection: sa.Connection, campaign_id: int) -> tuple[Row, ...]:
    query = (
        sa.select(attempts.c.worker_id, shards.c.cell_id, attempts.c.num_ordered, attempts.c.num_recorded)
        .join(shards, shards.c.id == attempts.c.shard_id)
        .where(attempts.c.campaign_id == campaign_id, attempts.c.closed_at.is_(None))
        .order_by(attempts.c.id)
    )
    return _all(connection, query)


def _events(campaign_id: int) -> sa.Select[Any]:
    wanted = _columns(events, "id at kind message")
    return (
        sa.select(*wanted, shards.c.cell_id, workers.c.name.label("worker"))
        .outerjoin(workers, workers.c.id == events.c.worker_id)
        .outerjoin(shards, shards.c.id == events.c.shard_id)
        .where(events.c.campaign_id == campaign_id, events.c.kind.not_in(ROUTINE_EVENTS))
    )


def _failures(campaign_id: int) -> sa.Select[Any]:
    own = _columns(failures, "at kind answer charged sample_index place message")
    of_cell = _columns(cells, "model_name task_label length_tokens method_label budget")
    return (
        sa.select(*own, *of_cell, workers.c.name.label("worker"))
        .outerjoin(cells, cells.c.id == failures.c.cell_id)
        .outerjoin(workers, workers.c.id == failures.c.worker_id)
        .where(failures.c.campaign_id == campaign_id)
    )


def _latest(connection: sa.Connection, query: sa.Select[Any], order: sa.Column[Any], limit: int) -> tuple[Row, ...]:
    return _all(connection, query.order_by(order.desc()).limit(limit))


def _failure_counts(connection: sa.Connection, campaign_id: int) -> tuple[Row, ...]:
    query = sa.select(failures.c.kind, failures.c.answer, sa.func.count().label("num"))
    return _all(
        connection, query.where(failures.c.campaign_id == campaign_id).group_by(failures.c.kind, failures.c.answer)
    )


def _ticks(connection: sa.Connection, campaign_id: int) -> tuple[Row, ...]:
    wanted = _columns(ticks, "at num_recorded prompt_tokens output_tokens num_in_flight")
    recent = ticks.c.at > now_seconds() - RATE_SECONDS
    return _all(connection, sa.select(*wanted).where(ticks.c.campaign_id == campaign_id, recent).order_by(ticks.c.at))
