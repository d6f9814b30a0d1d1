"""The log of a campaign: every change of a state, a worker or a lease appends a row."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from orchestrator.store.schema import events

_log = logging.getLogger(__name__)


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
    happened = list(happened)
    rows = [{"campaign_id": campaign_id, "at": now, **asdict(event)} for event in happened]
    if rows:
        connection.execute(sa.insert(events), rows)
    if _log.isEnabledFor(logging.INFO):
        for event in happened:
            _log.info("%s", _line(event))


def _line(event: Event) -> str:
    """One line for people: the kind, whom it is about, the message."""
    about = (("shard", event.shard_id), ("attempt", event.attempt_id), ("worker", event.worker_id))
    head = " ".join([event.kind, *(f"{name} {number}" for name, number in about if number is not None)])
    return f"{head}: {event.message}" if event.message else head
