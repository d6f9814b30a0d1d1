"""Running a campaign from beginning to end: take it over, loop, and leave it in order."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator.domain.states import CampaignState
from orchestrator.scheduler.loop import CampaignLoop
from orchestrator.scheduler.pool import WorkerPool
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.store import views
from orchestrator.store.campaigns import CampaignBusy, Fence, Superseded, let_go, take_over
from orchestrator.store.plan import load_plan
from orchestrator.store.rows import CampaignHeader, CampaignSnapshot
from orchestrator.store.session import Store, StoreUnavailable

T = TypeVar("T")
SnapshotCallback = Callable[[CampaignSnapshot], None]


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """How a run ended."""

    header: CampaignHeader
    interrupted: bool
    """Stopped before the campaign was finished; the same command goes on with it."""

    @property
    def exit_code(self) -> int:
        """0 complete, 3 complete with failures, 130 interrupted."""
        if self.interrupted or self.header.state is not CampaignState.COMPLETE:
            return 130
        return 3 if self.header.num_unscored or self.header.shards["failed"] else 0


def run_campaign(
    store: Store,
    name: str,
    pool: WorkerPool,
    *,
    settings: LoopSettings | None = None,
    on_snapshot: SnapshotCallback | None = None,
    snapshot_seconds: float = 1.0,
    stop_event: threading.Event | None = None,
    wall_seconds: float | None = None,
) -> CampaignResult:
    """Drive the campaign until it is finished, cancelled, or told to stop.

    `stop_event` (a signal handler sets it) and the end of `wall_seconds` lead to a drain within
    `settings.grace_seconds`. Raises CampaignBusy while another orchestrator drives it, and Superseded
    when one takes over; the workers then go on for that one.
    """
    chosen = settings or LoopSettings()
    fence = take_campaign(store, name, chosen)
    stop = stop_event or threading.Event()
    ends_at = time.monotonic() + wall_seconds - chosen.grace_seconds if wall_seconds else float("inf")
    if wall_seconds:
        chosen = replace(chosen, wall_ends_at=ends_at)
    keep_workers = True
    try:
        plan = _insist(lambda: load_plan(store, fence), chosen.outage_seconds)
        loop = CampaignLoop(store, fence, plan, pool, chosen)
        _insist(loop.start, chosen.outage_seconds)
        watcher = _Watcher(store, name, on_snapshot, snapshot_seconds)
        while loop.tick():
            watcher.show()
            if stop.is_set() or time.monotonic() > ends_at:
                loop.drain(chosen.grace_seconds)
        _insist(loop.finish, chosen.outage_seconds)
        keep_workers = False
        _insist(lambda: let_go(store, fence), chosen.outage_seconds)
        watcher.show(now=True)
    finally:
        pool.close(keep_workers=keep_workers)
    header = views.campaign_header(store, name)
    return CampaignResult(header, interrupted=header.state not in (CampaignState.COMPLETE, CampaignState.CANCELLED))


def _insist(act: Callable[[], T], seconds: float) -> T:
    """Do it as soon as the store allows; a campaign must not end badly because the store is away just then."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return act()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


class _Watcher:
    """Calls back with a snapshot now and then; a store that is away is no reason to stop."""

    def __init__(self, store: Store, name: str, call: SnapshotCallback | None, seconds: float) -> None:
        self._store, self._name, self._call, self._seconds = store, name, call, seconds
        self._shown_at = float("-inf")

    def show(self, *, now: bool = False) -> None:
        if self._call is None or not (now or time.monotonic() - self._shown_at >= self._seconds):
            return
        self._shown_at = time.monotonic()
        try:
            snapshot = views.campaign_snapshot(self._store, self._name)
        except StoreUnavailable:
            return
        self._call(snapshot)


def take_campaign(store: Store, name: str, settings: LoopSettings) -> Fence:
    """Take the campaign over; waits once for the lease of an orchestrator that may be dead."""
    owner, ttl = owner_name(), settings.campaign_lease_seconds
    deadline = time.monotonic() + ttl + 1.0
    while True:
        try:
            return take_over(store, name, owner, ttl_seconds=ttl, is_dead=owner_is_dead)
        except CampaignBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def owner_name() -> str:
    """`host:pid:start:token`; the start time tells a process from a later one of the same number."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}:{uuid.uuid4().hex[:8]}"


def owner_is_dead(owner: str) -> bool:
    """Whether the owner is a process of this host that exists no more; False when that cannot be told."""
    try:
        host, pid, started, _ = owner.rsplit(":", 3)
        if host != socket.gethostname() or not os.path.isdir("/proc/self"):
            return False
        return _started(int(pid)) != started
    except ValueError:
        return False


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; `gone` when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return "gone"
    return "gone" if fields[0] in ("Z", "X") else fields[19]


__all__ = ["CampaignResult", "Superseded", "run_campaign"]
