"""The workers' rows: who they are, how they do, and when they were last heard."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from orchestrator.domain.states import WorkerState
from orchestrator.store import events
from orchestrator.store.campaigns import Grip
from orchestrator.store.engine_record import to_json
from orchestrator.store.events import Event
from orchestrator.store.schema import workers
from workers.exchange import WorkerReport

ALIVE = (WorkerState.STARTING, WorkerState.READY, WorkerState.DRAINING, WorkerState.BROKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWorker:
    """A worker as the store remembers it: enough to find it again."""

    id: int
    name: str
    pool: str
    engine_key: str
    state: WorkerState


def register(connection: sa.Connection, grip: Grip, *, name: str, pool: str, engine_key: str, model_name: str) -> int:
    """A new worker, starting. Returns its id."""
    row = {
        "campaign_id": grip.campaign_id,
        "name": name,
        "pool": pool,
        "engine_key": engine_key,
        "model_name": model_name,
        "state": WorkerState.STARTING,
        "started_at": grip.now,
        "seen_at": grip.now,
    }
    worker_id = int(connection.execute(sa.insert(workers).values(row)).inserted_primary_key[0])  # type: ignore[index]
    _log(connection, grip, worker_id, "worker_starting", name)
    return worker_id


def living(connection: sa.Connection, grip: Grip) -> list[KnownWorker]:
    """Workers that were alive when last heard."""
    columns = (workers.c[c] for c in ("id", "name", "pool", "engine_key", "state"))
    query = sa.select(*columns).where(workers.c.campaign_id == grip.campaign_id, workers.c.state.in_(ALIVE))
    return [KnownWorker(**row) for row in connection.execute(query).mappings()]


def heard(connection: sa.Connection, grip: Grip, reports: Sequence[tuple[int, WorkerReport, int]]) -> None:
    """Keep each worker's progress; the third item of each is the number of outcomes just recorded."""
    if not reports:
        return
    values = {
        "seen_at": grip.now,
        "num_in_flight": sa.bindparam("in_flight"),
        "num_queued": sa.bindparam("queued"),
        "num_tokens": sa.bindparam("tokens"),
        "kv_use": sa.bindparam("kv"),
        "num_outcomes": workers.c.num_outcomes + sa.bindparam("outcomes"),
    }
    rows = [
        {
            "worker": worker_id,
            "in_flight": report.progress.num_in_flight,
            "queued": report.num_pending,
            "tokens": report.progress.num_tokens_total,
            "kv": report.progress.kv_use,
            "outcomes": num_outcomes,
        }
        for worker_id, report, num_outcomes in reports
    ]
    connection.execute(sa.update(workers).where(workers.c.id == sa.bindparam("worker")).values(**values), rows)


def is_up(connection: sa.Connection, grip: Grip, worker_id: int, report: WorkerReport) -> None:
    """The engine is loaded: keep what it says of itself."""
    facts = report.facts
    assert facts is not None
    connection.execute(
        sa.update(workers)
        .where(workers.c.id == worker_id)
        .values(
            state=WorkerState.READY,
            facts=to_json(facts),
            device=facts.device,
            num_weight_loads=facts.num_weight_loads,
            load_seconds=facts.load_seconds,
            node=report.node,
            pid=report.pid,
        )
    )
    _log(connection, grip, worker_id, "worker_ready", f"{facts.engine} on {facts.device}, {facts.load_seconds:.1f} s")


def become(connection: sa.Connection, grip: Grip, worker_ids: Collection[int], state: WorkerState, why: str) -> None:
    """Move workers to another state, and say why."""
    if not worker_ids:
        return
    values: dict[str, Any] = {"state": state, "last_words": why}
    if state not in ALIVE:
        values |= {"stopped_at": grip.now, "num_in_flight": 0, "num_queued": 0}
    connection.execute(sa.update(workers).where(workers.c.id.in_(worker_ids)).values(**values))
    for worker_id in worker_ids:
        _log(connection, grip, worker_id, f"worker_{state}", why)


def _log(connection: sa.Connection, grip: Grip, worker_id: int, kind: str, message: str) -> None:
    events.append(connection, grip.campaign_id, grip.now, [Event(kind=kind, worker_id=worker_id, message=message)])


def loads_by_engine(connection: sa.Connection, campaign_id: int) -> Mapping[str, int]:
    """How often each engine key was loaded, over all workers."""
    query = (
        sa.select(workers.c.engine_key, sa.cast(sa.func.sum(workers.c.num_weight_loads), sa.Integer))
        .where(workers.c.campaign_id == campaign_id)
        .group_by(workers.c.engine_key)
    )
    return {key: n for key, n in connection.execute(query)}
