"""The loop that drives a campaign: one thread, one transaction a tick."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.domain.states import CampaignState, Ending
from orchestrator.scheduler import ledger
from orchestrator.scheduler.crew import Crew, Departure, departure_of_distrusted, departure_of_missing
from orchestrator.scheduler.feeding import Feeder
from orchestrator.scheduler.ledger import Committed
from orchestrator.scheduler.member import Member, most_backlog
from orchestrator.scheduler.orders import shard_order
from orchestrator.scheduler.outage import Outage
from orchestrator.scheduler.pool import WorkerPool
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.store import fleet, leases, plan
from orchestrator.store.budget import gpu_hours_used
from orchestrator.store.campaigns import Fence, Grip, Superseded, change_state, hold
from orchestrator.store.endings import release_attempts
from orchestrator.store.leases import Claim
from orchestrator.store.plan import CampaignPlan
from orchestrator.store.session import Connection, Store, StoreUnavailable
from workers.exchange import StaleOrchestrator

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Round:
    """What one transaction decided, for memory to follow after the commit."""

    done: Committed
    departures: list[Departure] = field(default_factory=list)
    claims: list[tuple[Member, list[Claim]]] = field(default_factory=list)
    hired: list[Member] = field(default_factory=list)
    looked: bool = False
    reaped: list[int] = field(default_factory=list)
    doubtful: list[Member] = field(default_factory=list)


class CampaignLoop:
    """Drives one campaign under one fence. Call `start` once, then `tick` until it returns False."""

    def __init__(
        self,
        store: Store,
        fence: Fence,
        campaign: CampaignPlan,
        pool: WorkerPool,
        settings: LoopSettings,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.state = CampaignState.RUNNING
        self.num_unfinished = -1
        self._store, self._fence, self._plan, self._pool, self._settings = store, fence, campaign, pool, settings
        self._now, self._pause = clock, pause
        self._crew = Crew(campaign, pool, settings, clock)
        self._outage = Outage(store, fence, settings, clock)
        self._feeder = Feeder(settings)
        self._gone: list[Departure] = []
        self._listened_at = self._looked_at = self._noted_at = self._renewed_at = float("-inf")
        self._doubtful: list[Member] = []
        """Members whose last canary is awaited: every sample has its outcome, and theirs may still be recalled."""
        self._drain_until: float | None = None
        self._released = False

    @property
    def members(self) -> list[Member]:
        return self._crew.all()

    def start(self) -> None:
        """Take stock: replay what an earlier orchestrator left on disk, adopt its workers, free the rest."""
        self._outage.replay_leftovers()
        with self._store.write() as connection:
            grip = hold(connection, self._fence)
            leases.renew_all(connection, grip, self._settings.lease_seconds)
            known = fleet.living(connection, grip)
            current = plan.open_of_workers(connection, grip.campaign_id)
        here = [worker for worker in known if worker.pool == self._pool.name]
        elsewhere = [worker for worker in known if worker.pool != self._pool.name]
        gone = [*self._crew.adopt(here, current), *self._crew.out_of_reach(elsewhere)]
        self._gone += [departure_of_missing(member) for member in gone]

    def drain(self, grace_seconds: float) -> None:
        """Take no more work and return what is in flight within the grace period; `tick` then ends."""
        if self._drain_until is None:
            self._drain_until = self._now() + grace_seconds
            for member in self._crew.all():
                member.drain_seconds = max(0.0, grace_seconds - 2.0)

    def tick(self) -> bool:
        """One round: listen, record, follow. False when the campaign is over or everything has been drained."""
        self._listen()
        try:
            made = self._commit()
        except StoreUnavailable as error:
            self._outage.endure(error, self._crew.all())
            return True
        self._outage.over(self._crew.all())
        if made is not None:
            self._follow(made)
        return not self._is_over()

    def _listen(self) -> None:
        """Send what each free worker should know and take in what comes back."""
        release = self.state is CampaignState.PAUSED
        self._pace()
        free, most = self._pool.free(), most_backlog(len(self._crew.members))
        messages = {
            m.name: m.message(self._fence.epoch, release=release, most_backlog=most)
            for m in self._crew.all()
            if m.name in free
        }
        try:
            answers = self._pool.exchange(messages, self._settings.tick_seconds)
        except StaleOrchestrator as stale:
            raise Superseded(f"the workers obey another orchestrator: {stale}") from None
        gone = {d.loss.member.name for d in self._gone}
        self._gone += [d for d in self._crew.hear(answers) if d.loss.member.name not in gone]
        for name, seconds in self._pool.leaving().items():
            member = self._crew.members.get(name)
            if member is not None and not member.told_to_drain:
                member.drain_seconds = max(0.0, seconds - 5.0)

    def _pace(self) -> None:
        """No two exchanges within one tick's time."""
        wait = self._listened_at + self._settings.tick_seconds - self._now()
        if wait > 0:
            self._pause(wait)
        self._listened_at = self._now()

    def _commit(self) -> _Round | None:
        """Everything that this round changes in the store, in one transaction; None when there is nothing."""
        departures = self._departures()
        look = self._now() - self._looked_at >= self._look_seconds()
        feeding = self._drain_until is None and self.state is CampaignState.RUNNING
        hungry = feeding and any(self._feeder.appetite(m) > 0 for m in self._crew.all())
        if not (look or departures or hungry or any(m.backlog for m in self._crew.all())):
            return None
        with self._store.write() as connection:
            made = _Round(ledger.record_heard(connection, self._fence, self._crew.all(), self._settings.policy))
            grip = made.done.grip
            self._outage.excuse(connection, grip)
            self._see_off(connection, grip, made, departures)
            if look or departures:
                self._look(connection, grip, made)
                self._feeder.left = made.done.remaining
            self._claim(connection, grip, made)
            self._hire(connection, grip, made)
        return made

    def _look_seconds(self) -> float:
        """Sooner when nobody has anything to do: then either work or the end is to be found."""
        is_quiet = all(m.is_quiet for m in self._crew.all())
        return min(0.2, self._settings.look_seconds) if is_quiet else self._settings.look_seconds

    def _departures(self) -> list[Departure]:
        found = {d.loss.member.name: d for d in [*self._crew.departing(), *self._gone]}
        return list(found.values())

    def _see_off(self, connection: Connection, grip: Grip, made: _Round, departures: list[Departure]) -> None:
        for member in self._crew.all():
            if member.id in made.done.distrusted:
                departures = [*departures, departure_of_distrusted(member, made.done.distrusted[member.id])]
        ledger.take_back(connection, grip, [d.loss for d in departures], self._settings.policy)
        for leaving in departures:
            self._crew.note_departure(connection, grip, leaving)
        made.departures = departures

    def _look(self, connection: Connection, grip: Grip, made: _Round) -> None:
        """The slower part of a round: leases, progress, demands, the campaign's state."""
        made.looked = True
        members = self._crew.all()
        if grip.state is CampaignState.CANCELLED:
            self._cancel_leased(connection, grip)
        plan.begin(connection, grip)
        if self._now() - self._renewed_at >= self._settings.lease_seconds / 4:
            heard = [m for m in members if self._now() - m.heard_at < self._settings.lease_seconds / 4]
            leases.renew(connection, grip, [m.id for m in heard], self._settings.lease_seconds)
            self._renewed_at = self._now()
        made.reaped = ledger.reap(connection, grip, self._settings.policy)
        self._free_vanished(connection, grip)
        ledger.note_progress(connection, grip, members, made.done)
        ledger.look_around(connection, made.done)
        if self._now() - self._noted_at >= self._settings.record_seconds:
            flying = sum(m.report.progress.num_in_flight for m in members if m.report)
            plan.note_tick(connection, grip, num_in_flight=flying, num_workers=len(members))
            self._noted_at = self._now()
            self._check_budget(connection, grip)
        self.num_unfinished = plan.num_unfinished(connection, grip.campaign_id)
        if self.num_unfinished == 0:
            made.doubtful = self._crew.doubtful(made.done.unproven, {d.loss.member.id for d in made.departures})
        if self.num_unfinished == 0 and not made.doubtful and grip.state is CampaignState.RUNNING:
            change_state(connection, grip.campaign_id, grip.now, CampaignState.COMPLETE, "no shard is left to do")

    def _check_budget(self, connection: Connection, grip: Grip) -> None:
        """A campaign that has used up its GPU-hours is paused, and its engines are let go."""
        budget = self._plan.gpu_hours
        if budget is None or grip.state is not CampaignState.RUNNING:
            return
        if gpu_hours_used(connection, grip, self._plan.engines) >= budget:
            reason = f"its budget of {budget:g} GPU-hours is used up"
            change_state(connection, grip.campaign_id, grip.now, CampaignState.PAUSED, reason)
            self.drain(self._settings.grace_seconds)

    def _cancel_leased(self, connection: Connection, grip: Grip) -> None:
        for worker_id, attempt_ids in plan.open_of_workers(connection, grip.campaign_id).items():
            leases.close(connection, grip, attempt_ids, Ending.CANCELLED)
            _log.info("cancelled %d attempts of worker %d", len(attempt_ids), worker_id)
        leases.cancel_shards(connection, grip)

    def _free_vanished(self, connection: Connection, grip: Grip) -> None:
        """Orders that never arrived go back at once."""
        lost = {attempt_id for member in self._crew.all() for attempt_id in member.vanished()}
        release_attempts(connection, grip, leases.open_attempts(connection, lost).values(), "the order never arrived")

    def _claim(self, connection: Connection, grip: Grip, made: _Round) -> None:
        if self._drain_until is None:
            leaving = {d.loss.member.id for d in made.departures}
            staying = [m for m in self._crew.all() if m.id not in leaving]
            made.claims = self._feeder.claim(connection, grip, staying)

    def _hire(self, connection: Connection, grip: Grip, made: _Round) -> None:
        if not made.looked or self._drain_until is not None or grip.state is not CampaignState.RUNNING:
            return
        nodes, left = self._crew.nodes(), made.done.remaining
        if nodes:
            may_hire, asked = self._crew.make_room(connection, grip, nodes)
            for member in asked or self._crew.leavers(nodes, left):
                member.drain_seconds = self._settings.lookahead_seconds
            made.hired += self._crew.hire_on(connection, grip, nodes, left) if may_hire else []
            return
        for member in self._crew.surplus(left):
            member.drain_seconds = self._settings.grace_seconds  # idle: gone once it has proved itself
        while (engine_key := self._crew.next_hire(left, made.hired)) is not None:
            made.hired.append(self._crew.hire(connection, grip, engine_key))

    def _follow(self, made: _Round) -> None:
        """The commit stands: memory, workers and pool follow."""
        done = made.done
        self.state = done.grip.state
        for member in self._crew.all():
            member.committed(done.num_records.get(member.id, 0))
            member.unproven = member.id in done.unproven
            if member.is_up:
                member.note_speed(self._now(), done.num_outcomes.get(member.id, 0))
            member.num_uncounted = 0 if made.looked else member.num_uncounted + done.num_outcomes.get(member.id, 0)
            if member.report is not None and member.report.facts is not None and not member.is_up:
                self._crew.note_up(member)
            if done.num_outcomes.get(member.id, 0):
                self._crew.note_work(member)
        for leaving in made.departures:
            self._crew.see_off(leaving)
        self._gone = []
        if made.looked:
            self._looked_at, self._doubtful = self._now(), made.doubtful
            self._compare(done)
            for member in made.doubtful:
                member.ask_for_proof(self._now())
        if made.departures:  # their places are free now: look again at once
            self._looked_at = float("-inf")
        for member, claims in made.claims:
            member.open.update(c.attempt_id for c in claims)
            member.outbox += [shard_order(self._plan, c) for c in claims]
        for member in made.hired:
            self._crew.welcome(member)

    def _compare(self, done: Committed) -> None:
        """What the store calls current and what the workers do must agree; the store wins."""
        for member in self._crew.all():
            member.open = set(done.open.get(member.id, ()))
            member.delivered &= member.open
            if member.report is not None:
                member.withdrawn = member.strangers()

    def _is_over(self) -> bool:
        if self._drain_until is not None:
            return self._is_drained()
        finished = self.num_unfinished == 0 and not self._doubtful and not any(m.backlog for m in self._crew.all())
        return finished or (self.state is CampaignState.CANCELLED and self.num_unfinished == 0)

    def _is_drained(self) -> bool:
        assert self._drain_until is not None
        return not self._crew.members or self._now() > self._drain_until

    def finish(self) -> None:
        """Give back whatever is still open and forget the workers; for the end of a drain or of a campaign."""
        with self._store.write() as connection:
            grip = hold(connection, self._fence)
            for member in self._crew.all():
                self._crew.dismiss(connection, grip, member)
