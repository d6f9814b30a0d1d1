"""GPU-hours that a campaign has used, from its workers' lives."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from orchestrator.store.campaigns import Grip
from orchestrator.store.schema import workers
from workers.engine import EngineSpec


def gpu_hours_used(connection: sa.Connection, grip: Grip, engines: Mapping[str, EngineSpec]) -> float:
    """Of all workers, from their start to their end or to now: loads and idle time count too."""
    lived = sa.func.sum(sa.func.coalesce(workers.c.stopped_at, grip.now) - workers.c.started_at)
    query = (
        sa.select(workers.c.engine_key, lived)
        .where(workers.c.campaign_id == grip.campaign_id)
        .group_by(workers.c.engine_key)
    )
    seconds = {key: float(total) for key, total in connection.execute(query)}
    return sum(total * engines[key].num_gpus for key, total in seconds.items() if key in engines) / 3600
