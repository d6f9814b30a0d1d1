"""The log of a campaign: every change of a state, a worker or a lease appends a row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from orchestrator.store.schema import events


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a campaign, a shard, an attempt or a worker."""

    kind: str
    """`claimed`, `done`, `released`, `expired`, `refused`, `worker_ready`, `orchestrator`, …"""
    message: str = ""
    shard_id: int | None = None
    attempt_id: int | None = None
    worker_id: int | None = None


def append(connection: sa.Connection, campaign_id: int, now: float, happened: Iterable[Event]) -> None:
    rows = [{"campaign_id": campaign_id, "at": now, **asdict(event)} for event in happened]
    if rows:
        connection.execute(sa.insert(events), rows)
