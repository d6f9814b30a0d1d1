"""While the store is away: keep listening, keep outcomes on disk, and set things right when it is back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from itertools import islice

from orchestrator.scheduler.member import Member
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.scheduler.spool import Spool
from orchestrator.store import events, leases, outcomes
from orchestrator.store.campaigns import Fence, Grip, hold
from orchestrator.store.events import Event
from orchestrator.store.session import Connection, Store, StoreUnavailable
from workers.protocol import SampleOutcome

_log = logging.getLogger(__name__)
_CHUNK = 2000


def spool_name(store: Store, fence: Fence) -> str:
    """One file for each campaign of each store."""
    return f"{hashlib.sha256(store.url.encode()).hexdigest()[:12]}-{fence.campaign_id}.spool"


class Outage:
    """The state of the connection between a loop and its store."""

    def __init__(self, store: Store, fence: Fence, settings: LoopSettings, now: Callable[[], float]) -> None:
        self._store, self._fence, self._settings, self._now = store, fence, settings, now
        folder = settings.spool_folder
        self.spool = Spool(folder / spool_name(store, fence)) if folder is not None else None
        self._began_at: float | None = None

    @property
    def is_on(self) -> bool:
        return self._began_at is not None

    def replay_leftovers(self) -> int:
        """Record what an earlier orchestrator spooled here; the fence refuses what is no longer current."""
        if self.spool is None:
            return 0
        left, number = self.spool.read(), 0
        while chunk := list(islice(left, _CHUNK)):
            with self._store.write() as connection:
                grip = hold(connection, self._fence)
                number += outcomes.record(connection, grip, chunk).num_new
        self.spool.clear()
        return number

    def endure(self, error: StoreUnavailable, members: Sequence[Member]) -> None:
        """Spool what has come since the last time. Raises the error again when the store is away for too long."""
        if self._began_at is None:
            self._began_at = self._now()
            _log.warning("the store is away, outcomes are kept: %s", error)
        if self._now() - self._began_at > self._settings.outage_seconds:
            raise error
        if self.spool is not None:
            self._write_spool(self.spool, members)

    def _write_spool(self, spool: Spool, members: Sequence[Member]) -> None:
        for member in members:
            new = list(islice(member.backlog, member.num_spooled, None))
            try:
                spool.append(record for record in new if isinstance(record, SampleOutcome))
            except OSError as problem:
                _log.warning("the spool cannot be written, the workers keep their outcomes: %s", problem)
                return
            member.num_spooled += len(new)

    def excuse(self, connection: Connection, grip: Grip) -> None:
        """First transaction after an outage: nobody could renew, so every lease gets another term."""
        if self._began_at is None:
            return
        leases.renew_all(connection, grip, self._settings.lease_seconds)
        message = f"the store was away for {self._now() - self._began_at:.1f} s"
        events.append(connection, grip.campaign_id, grip.now, [Event(kind="store_back", message=message)])

    def over(self, members: Sequence[Member]) -> None:
        """The store answered. The spool is dropped once everything in it is recorded."""
        if self._began_at is not None:
            _log.warning("the store is back after %.1f s", self._now() - self._began_at)
        self._began_at = None
        if self.spool is not None and self.spool.num_written and not any(m.num_spooled for m in members):
            self.spool.clear()
