"""Campaigns of higher priority that are driven at the same time, perhaps on the same cluster."""

from __future__ import annotations

import sqlalchemy as sa

from orchestrator.domain.sharing import Rival
from orchestrator.domain.states import CampaignState, ShardState
from orchestrator.store.campaigns import Grip
from orchestrator.store.engine_record import engine_from_json
from orchestrator.store.schema import campaigns, cells, shards, workers

_AT_WORK = (CampaignState.READY, CampaignState.RUNNING)


def find_rivals(connection: sa.Connection, grip: Grip, *, priority: int, pool: str) -> list[Rival]:
    """Those with an orchestrator alive and engines in the same pool, or none yet (then it may be the same one)."""
    c = campaigns.c
    query = sa.select(c.id, c.name, c.spec).where(
        c.id != grip.campaign_id, c.state.in_(_AT_WORK), c.orchestrator_until > grip.now
    )
    above = [row for row in connection.execute(query) if int(row.spec.get("priority") or 0) > priority]
    found = []
    for row in above:
        own = workers.c.campaign_id == row.id
        pools = list(connection.scalars(sa.select(workers.c.pool).where(own, workers.c.stopped_at.is_(None))))
        if not pools or pool in pools:
            found.append(_rival(connection, row.id, row.name, len(pools)))
    return found


def _rival(connection: sa.Connection, campaign_id: int, name: str, num_engines: int) -> Rival:
    waiting = (
        sa.select(shards.c.engine_key, sa.func.count())
        .where(shards.c.campaign_id == campaign_id, shards.c.state == ShardState.READY)
        .group_by(shards.c.engine_key)
    )
    ready = {key: int(number) for key, number in connection.execute(waiting)}
    return Rival(
        name=name,
        num_ready_shards=sum(ready.values()),
        num_engines=num_engines,
        gpus_wanted=min((_gang(connection, campaign_id, key) for key in ready), default=1),
    )


def _gang(connection: sa.Connection, campaign_id: int, engine_key: str) -> int:
    query = sa.select(cells.c.engine).where(cells.c.campaign_id == campaign_id, cells.c.engine_key == engine_key)
    engine = connection.scalar(query.limit(1))
    return engine_from_json(engine).gpus_per_node if engine else 1
