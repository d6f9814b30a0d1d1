"""Figures of a drill, read from the campaign's own record."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa

from orchestrator.domain.retry import RetryPolicy
from orchestrator.store.schema import attempts, events, failures, outcomes, workers
from orchestrator.store.session import Store

AGAIN_SECONDS = 15.0
"""A dead worker's samples are to be leased again within this time."""


def releases_after(
    store: Store, kills: Sequence[tuple[float, str]], outages: Sequence[tuple[float, float]] = ()
) -> list[float]:
    """Seconds from each kill until each of the worker's shards was leased again, ascending.

    Kills less than `AGAIN_SECONDS` before the store was kept away, or meanwhile, are left out: nobody can lease then.
    """
    waits: list[float] = []
    with store.read() as connection:
        for at, name in kills:
            if not any(begin - AGAIN_SECONDS < at < end for begin, end in outages):
                waits += _waits_of(connection, at, name)
    return sorted(waits)


def _waits_of(connection: sa.Connection, at: float, name: str) -> list[float]:
    lost = connection.execute(
        sa.select(attempts.c.shard_id, attempts.c.closed_at)
        .join(workers, workers.c.id == attempts.c.worker_id)
        .where(workers.c.name == name, attempts.c.ending == "expired")
    ).all()
    waits = []
    for shard_id, closed_at in lost:
        again = connection.scalar(
            sa.select(sa.func.min(attempts.c.opened_at)).where(
                attempts.c.shard_id == shard_id, attempts.c.opened_at >= closed_at
            )
        )
        if again is not None:
            waits.append(again - at)
    return waits


def wrong_charges(store: Store) -> list[str]:
    """Charged failures that no broken sample explains, and quarantines that took more engines than they may."""
    own = sa.and_(outcomes.c.cell_id == failures.c.cell_id, outcomes.c.sample_index == failures.c.sample_index)
    explained = sa.exists().where(own, outcomes.c.failure_kind.is_not(None))
    with store.read() as connection:
        charged = connection.execute(sa.select(failures).where(failures.c.charged, sa.not_(explained))).all()
        quarantined = connection.scalars(sa.select(failures.c.message).where(failures.c.answer == "quarantine")).all()
    found = [f"wrongly charged: {row.kind} at {row.place}: {row.message}" for row in charged]
    deaths = [int(text.removeprefix("quarantined after ").split()[0]) for text in quarantined]
    allowed = RetryPolicy().max_deaths
    return found + [f"a sample killed {n} engines, {allowed} are allowed" for n in deaths if n > allowed]


def starts_and_loads(store: Store) -> tuple[int, int]:
    """Outcomes that the fence refused, and workers that were started."""
    with store.read() as connection:
        refusals = connection.scalars(sa.select(events.c.message).where(events.c.kind == "refused")).all()
        num_workers = connection.scalar(sa.select(sa.func.count()).select_from(workers)) or 0
    numbers = (re.match(r"\d+", message) for message in refusals)
    return sum(int(found.group()) for found in numbers if found), num_workers
