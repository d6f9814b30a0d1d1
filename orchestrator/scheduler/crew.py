"""The workers of a campaign: hiring, adopting, and seeing off those that are gone, broken or not needed."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.domain.placement import Node, too_large
from orchestrator.domain.retry import backoff_seconds, may_start_again
from orchestrator.domain.sharing import Holding, engine_to_let_go, may_hire
from orchestrator.domain.states import WorkerState
from orchestrator.scheduler.hiring import Hiring
from orchestrator.scheduler.ledger import Loss
from orchestrator.scheduler.member import Member
from orchestrator.scheduler.pool import Gone, WorkerPool
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.scheduler.staffing import Demand, next_engine, surplus_engines
from orchestrator.store import endings, events, fleet, leases
from orchestrator.store.campaigns import Grip
from orchestrator.store.plan import CampaignPlan, Remaining
from orchestrator.store.rivals import find_rivals
from orchestrator.store.session import Connection
from workers.exchange import Condition, WorkerReport, WorkerStart
from workers.failures import Failure, FailureKind

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Departure:
    """A worker that leaves the crew: what the store is told, and whether something went wrong."""

    loss: Loss
    state: WorkerState
    failure: Failure | None = None
    at_start: bool = False


class Crew:
    """Members by name, and the starts that failed."""

    def __init__(self, plan: CampaignPlan, pool: WorkerPool, settings: LoopSettings, now: Callable[[], float]) -> None:
        self.members: dict[str, Member] = {}
        self._plan, self._pool, self._settings, self._now = plan, pool, settings, now
        self._hiring = Hiring(plan.engines)
        self._failed_starts: Counter[str] = Counter()
        self._start_after: dict[str, float] = {}
        self._told: set[str] = set()
        self.hopeless: dict[str, Failure] = {}
        """Engines that cannot start, with the reason."""

    def all(self) -> list[Member]:
        return list(self.members.values())

    def hire(
        self, connection: Connection, grip: Grip, engine_key: str, nodes: tuple[str, ...] = (), gpus: int | None = None
    ) -> Member:
        """Register one more worker; `welcome` starts it once that is committed. `gpus`: of all its nodes together."""
        name, model_name = f"{self._plan.name}-{uuid.uuid4().hex[:8]}", self._plan.model_names[engine_key]
        worker_id = fleet.register(
            connection, grip, name=name, pool=self._pool.name, engine_key=engine_key, model_name=model_name
        )
        engine = self._plan.engines[engine_key].on_gpus(gpus)
        return Member(worker_id, name, engine_key, engine, self._now(), nodes)

    def hire_on(
        self, connection: Connection, grip: Grip, nodes: Sequence[Node], left: Mapping[str, Remaining]
    ) -> list[Member]:
        """Register the workers that the free GPUs of `nodes` should get."""
        self._tell_too_large(connection, grip, nodes, left)
        barred = {key for key in self._plan.engines if self._may_not_start(key)}
        hired: list[Member] = []
        for chosen in self._hiring.choose(nodes, left, self.members.values(), barred, self._now()):
            gpus = chosen.gpus_per_node * len(chosen.nodes)
            if len(hired) < self._room(chosen.key, gpus):
                hired.append(self.hire(connection, grip, chosen.key, chosen.nodes, gpus))
        return hired

    def _tell_too_large(
        self, connection: Connection, grip: Grip, nodes: Sequence[Node], left: Mapping[str, Remaining]
    ) -> None:
        """Once for each engine that would wait for ever unless a larger node joins."""
        engines = {key: self._plan.engines[key] for key in left if key not in self._told}
        shares = {key: (engine.gpus_per_node, engine.num_nodes) for key, engine in engines.items()}
        for key, why in too_large(shares, nodes).items():
            self._told.add(key)
            message = f"{self._plan.model_names[key]} cannot start here: {why}"
            events.append(connection, grip.campaign_id, grip.now, [events.Event(kind="no_room", message=message)])
            _log.warning("%s", message)

    def nodes(self) -> list[Node]:
        """The pool's hosts, with the time that the end of the wall time leaves them."""
        ends_at = self._settings.wall_ends_at
        found = list(self._pool.nodes())
        if ends_at is None:
            return found
        left = max(0.0, ends_at - self._now())
        return [replace(n, seconds_left=left if n.seconds_left is None else min(left, n.seconds_left)) for n in found]

    def make_room(self, connection: Connection, grip: Grip, nodes: Sequence[Node]) -> tuple[bool, list[Member]]:
        """For campaigns of higher priority on these nodes: whether we may start engines, and who of ours should go."""
        rivals = find_rivals(connection, grip, priority=self._plan.priority, pool=self._pool.name)
        if not rivals:
            return True, []
        name = engine_to_let_go(rivals, nodes, [_holding(member) for member in self.members.values()])
        return may_hire(rivals), [] if name is None else [self.members[name]]

    def welcome(self, member: Member) -> None:
        """Start a registered worker."""
        self.members[member.name] = member
        self._pool.start(
            WorkerStart(
                name=member.name,
                campaign=self._plan.name,
                engine_name=self._plan.engine_name,
                engine=member.engine,
                node=member.nodes[0] if member.nodes else "",
                more_nodes=member.nodes[1:],
                stall_seconds=self._settings.stall_seconds,
                canary_seconds=self._settings.canary_seconds,
                orphan_seconds=self._settings.orphan_seconds,
            )
        )

    def adopt(self, known: Sequence[fleet.KnownWorker], open_by_worker: Mapping[int, set[int]]) -> list[Member]:
        """Take over the living workers of an earlier orchestrator; returns those that are gone."""
        found = self._pool.adopt({w.name: self._plan.engines[w.engine_key] for w in known})
        for worker in known:
            if worker.name in found:
                member = self._known(worker)
                member.open = set(open_by_worker.get(worker.id, ()))
                member.delivered = set(member.open)
                self.members[worker.name] = member
        return self.out_of_reach([worker for worker in known if worker.name not in found])

    def out_of_reach(self, known: Sequence[fleet.KnownWorker]) -> list[Member]:
        """Workers that this pool cannot have."""
        return [self._known(worker) for worker in known]

    def _known(self, worker: fleet.KnownWorker) -> Member:
        engine = self._plan.engines[worker.engine_key]
        member = Member(worker.id, worker.name, worker.engine_key, engine, self._now())
        member.is_up = worker.state is not WorkerState.STARTING
        member.unproven = member.is_up  # until it is told otherwise
        return member

    def hear(self, answers: Mapping[str, WorkerReport | Gone]) -> list[Departure]:
        """Take reports in; returns the workers whose process is gone."""
        departures = []
        for name, answer in answers.items():
            member = self.members.get(name)
            if member is None:
                continue
            if isinstance(answer, Gone):
                departures.append(_departure_of_gone(member, answer))
            else:
                member.hear(answer, self._now())
        return departures

    def departing(self) -> list[Departure]:
        """Members that fell silent, broke, lost our trust, or have drained."""
        return [d for member in self.members.values() if (d := self._departure(member)) is not None]

    def _departure(self, member: Member) -> Departure | None:
        if self._now() - member.heard_at > self._settings.lease_seconds and member.is_up:
            return Departure(Loss(member, "silent for too long"), WorkerState.LOST)
        if member.report is None and self._now() - member.heard_at > self._settings.start_seconds:
            return Departure(Loss(member, "no sign of life since its start"), WorkerState.LOST)
        if member.condition is Condition.BROKEN and member.has_told_all:
            failure = member.report.failure if member.report else None
            reason = failure.message if failure else "broken"
            at_start = failure is not None and (failure.where == "start" or not member.seen)
            return Departure(Loss(member, reason, ended_orderly=True), WorkerState.LOST, failure, at_start)
        if member.condition is Condition.DRAINED and member.has_told_all:
            return Departure(Loss(member, "drained", FailureKind.PREEMPTED, True), WorkerState.STOPPED)
        return None

    def note_departure(self, connection: Connection, grip: Grip, leaving: Departure) -> None:
        """Write what a departure means for the worker and its engine."""
        member = leaving.loss.member
        fleet.become(connection, grip, [member.id], leaving.state, leaving.loss.reason)
        if leaving.failure is not None:
            endings.log_worker_failure(connection, grip, leaving.failure, member.id)
        if leaving.at_start:
            failure = leaving.failure or Failure(
                kind=FailureKind.ENGINE_CRASH,
                message=f"it went away while starting: {leaving.loss.reason}",
                where="start",
            )
            failures = self._failed_starts[member.engine_key] + 1
            if not may_start_again(failure.kind, failures, self._settings.policy):
                endings.fail_engine(connection, grip, member.engine_key, failure, member.id)

    def see_off(self, leaving: Departure) -> None:
        """The store knows: end the worker and remember a failed start."""
        member, policy = leaving.loss.member, self._settings.policy
        self.members.pop(member.name, None)
        self._pool.stop([member.name])
        if leaving.at_start:
            self._failed_starts[member.engine_key] += 1
            wait = backoff_seconds(self._failed_starts[member.engine_key] - 1, policy)
            self._start_after[member.engine_key] = self._now() + wait
            kind = leaving.failure.kind if leaving.failure else FailureKind.ENGINE_CRASH
            if not may_start_again(kind, self._failed_starts[member.engine_key], policy):
                self.hopeless[member.engine_key] = leaving.failure or Failure(kind=kind, message=leaving.loss.reason)

    def note_up(self, member: Member) -> None:
        member.is_up = True
        if member.report is not None and member.report.facts is not None:
            self._hiring.note_load(member.engine_key, member.report.facts.load_seconds)

    def note_work(self, member: Member) -> None:
        """An engine has given outcomes: its kind can start."""
        self._failed_starts.pop(member.engine_key, None)

    def demands(self, left: Mapping[str, Remaining]) -> dict[str, Demand]:
        """Ready work and workers, by engine."""
        staff = Counter(m.engine_key for m in self.members.values() if not m.told_to_drain)
        return {
            key: Demand(
                left[key].num_samples if key in left else 0, left[key].num_shards if key in left else 0, staff[key]
            )
            for key in self._plan.engines
        }

    def next_hire(self, left: Mapping[str, Remaining], hired: Sequence[Member]) -> str | None:
        """The engine that one more worker should load now, besides those just `hired`."""
        more = Counter(member.engine_key for member in hired)
        demands = {k: replace(d, num_workers=d.num_workers + more[k]) for k, d in self.demands(left).items()}
        return next_engine(demands, lambda key: self._room(key) - sum(more.values()))

    def doubtful(self, unproven: Collection[int], leaving: Collection[int]) -> list[Member]:
        """Members that a campaign waits for: their last completions have no good canary after them yet."""
        if not self._settings.canary_seconds:
            return []
        return [m for m in self.members.values() if m.id in unproven and m.id not in leaving]

    def dismiss(self, connection: Connection, grip: Grip, member: Member) -> None:
        """The end of a campaign or of a drain: what is open goes back, nobody is charged."""
        still_open = leases.open_attempts_of_worker(connection, member.id).values()
        endings.release_attempts(connection, grip, still_open, "the orchestrator stops")
        fleet.become(connection, grip, [member.id], WorkerState.STOPPED, "no longer needed")

    def surplus(self, left: Mapping[str, Remaining]) -> list[Member]:
        """Idle workers that stand in the way of an engine with work."""
        keys = surplus_engines(self.demands(left))
        return [
            m for m in self.members.values() if m.engine_key in keys and m.is_up and m.is_idle and not m.told_to_drain
        ]

    def leavers(self, nodes: Sequence[Node], left: Mapping[str, Remaining]) -> list[Member]:
        """Where the loop places gangs: workers without work, or whose kind ends in time without them, make way."""
        idle = {key for key in self._plan.engines if left.get(key, _NOTHING).num_shards == 0}
        others_wait = len(idle) < len(self._plan.engines)
        done = [m for m in self.members.values() if m.engine_key in idle and m.is_up and m.is_idle]
        found = done if others_wait else []
        return [m for m in found or self._hiring.leavers(nodes, left, self.all(), self._now()) if not m.told_to_drain]

    def _may_not_start(self, engine_key: str) -> bool:
        return engine_key in self.hopeless or self._now() < self._start_after.get(engine_key, 0.0)

    def _room(self, engine_key: str, gpus: int | None = None) -> int:
        return 0 if self._may_not_start(engine_key) else self._pool.room(self._plan.engines[engine_key].on_gpus(gpus))


_NOTHING = Remaining(0, 0)


def _holding(member: Member) -> Holding:
    leaving = member.told_to_drain or member.drain_seconds is not None
    return Holding(
        name=member.name,
        node=member.nodes[0] if member.nodes else "",
        gpus=member.engine.gpus_per_node,
        num_held=member.num_held,
        is_leaving=leaving,
    )


def departure_of_missing(member: Member) -> Departure:
    """A worker of an earlier orchestrator that is not there any more."""
    return Departure(Loss(member, "not found by the new orchestrator"), WorkerState.LOST)


def departure_of_distrusted(member: Member, why: str) -> Departure:
    """A worker whose canary is wrong; when that is the first it tells, its engine could not start well."""
    failure = Failure(kind=FailureKind.ENGINE_CRASH, message=f"wrong canary: {why}", where="start")
    at_start = member.acknowledged == 0
    return Departure(Loss(member, why), WorkerState.LOST, failure if at_start else None, at_start)


def _departure_of_gone(member: Member, gone: Gone) -> Departure:
    kind = FailureKind.PREEMPTED if gone.preempted else FailureKind.WORKER_LOST
    at_start = not member.is_up and not gone.preempted
    return Departure(Loss(member, gone.reason, kind), WorkerState.LOST, at_start=at_start)
