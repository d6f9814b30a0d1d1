"""Judging canaries: an engine on a kind of device must repeat what the first one gave.

A worker that disagrees is not believed any more, and what it did since its last good canary is done again.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from orchestrator.domain.states import ShardState
from orchestrator.store import endings, events, leases
from orchestrator.store.campaigns import Grip
from orchestrator.store.counting import CELL_COUNTERS, change_cells, contribution
from orchestrator.store.events import Event
from orchestrator.store.schema import attempts, canaries, outcomes, shards, workers
from workers.exchange import CanaryResult


def judge(connection: sa.Connection, grip: Grip, worker_id: int, result: CanaryResult) -> str | None:
    """None when the canary is good (the first of its kind is); otherwise why it is not, and the recall is done."""
    worker = connection.execute(sa.select(workers).where(workers.c.id == worker_id)).mappings().one()
    platform = _platform(worker)
    for name, digest in sorted(result.digests.items()):
        known = _known(connection, worker["engine_key"], platform, name)
        if known is None and digest != "failed":
            _remember(connection, grip, worker, platform, name, digest)
        elif known != digest:
            why = f"{name} gave {digest[:12]}, known is {(known or '-')[:12]}"
            num = recall(connection, grip, worker_id, since=worker["good_canary_at"])
            message = f"{why}; {num} outcomes since its last good canary are done again"
            _log(connection, grip, worker_id, "canary_failed", message)
            return message
    connection.execute(sa.update(workers).where(workers.c.id == worker_id).values(good_canary_at=grip.now))
    _log(connection, grip, worker_id, "canary_good", "")
    return None


def _platform(worker: sa.RowMapping) -> str:
    facts: dict[str, Any] = worker["facts"] or {}
    return f"{facts.get('engine', '')} {facts.get('device', '')} {facts.get('executor', '')}"[:200]


def _known(connection: sa.Connection, engine_key: str, platform: str, name: str) -> str | None:
    found: str | None = connection.scalar(
        sa.select(canaries.c.digest).filter_by(engine_key=engine_key, platform=platform, name=name)
    )
    return found


def _remember(
    connection: sa.Connection, grip: Grip, worker: sa.RowMapping, platform: str, name: str, digest: str
) -> None:
    row = {"engine_key": worker["engine_key"], "platform": platform, "name": name, "digest": digest}
    connection.execute(sa.insert(canaries).values(**row, worker_id=worker["id"], at=grip.now))


def recall(connection: sa.Connection, grip: Grip, worker_id: int, since: float | None) -> int:
    """Remove the worker's outcomes recorded after `since` and make their shards ready. Returns how many."""
    mine = sa.select(attempts.c.id).where(attempts.c.worker_id == worker_id)
    condition = sa.and_(outcomes.c.attempt_id.in_(mine), outcomes.c.recorded_at >= (since or 0.0))
    endings.release_attempts(
        connection, grip, leases.open_attempts_of_worker(connection, worker_id).values(), "its worker is not believed"
    )
    return remove_outcomes(connection, grip, condition)


def remove_outcomes(connection: sa.Connection, grip: Grip, condition: sa.ColumnElement[bool]) -> int:
    """Take outcomes back, with their counts; their shards become ready."""
    gone = connection.execute(sa.select(outcomes).where(condition)).all()
    if not gone:
        return 0
    totals: dict[int, dict[str, float]] = {}
    for row in gone:
        counters = totals.setdefault(row.cell_id, dict.fromkeys(CELL_COUNTERS, 0))
        for name, value in contribution(row).items():
            counters[name] -= value
    connection.execute(sa.delete(outcomes).where(condition))
    change_cells(connection, totals)
    _recount(connection, grip, {row.cell_id for row in gone})
    return len(gone)


def _recount(connection: sa.Connection, grip: Grip, cell_ids: set[int]) -> None:
    """The shards of these cells count their outcomes anew; those that lack some are ready again."""
    for cell_id in sorted(cell_ids):
        found = (
            sa.select(sa.func.count())
            .where(
                outcomes.c.cell_id == shards.c.cell_id,
                outcomes.c.sample_index >= shards.c.first_index,
                outcomes.c.sample_index < shards.c.first_index + shards.c.num_samples,
            )
            .scalar_subquery()
        )
        final = (ShardState.DONE, ShardState.FAILED, ShardState.CANCELLED)
        connection.execute(
            sa.update(shards)
            .where(shards.c.cell_id == cell_id, shards.c.num_recorded != found)
            .values(
                num_recorded=found,
                state=sa.case(
                    (shards.c.state.in_(final), sa.literal(ShardState.READY, shards.c.state.type)), else_=shards.c.state
                ),
            )
        )


def _log(connection: sa.Connection, grip: Grip, worker_id: int, kind: str, message: str) -> None:
    events.append(connection, grip.campaign_id, grip.now, [Event(kind=kind, worker_id=worker_id, message=message)])
