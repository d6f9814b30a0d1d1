"""A pool of simulated nodes: workers that cost time only, and nodes that vanish as the fault trace says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from orchestrator.domain.placement import Node
from orchestrator.scheduler.pool import Gone
from orchestrator.scheduler.simulation.faults import FaultTrace
from orchestrator.scheduler.simulation.sim_clock import SimClock
from orchestrator.scheduler.simulation.sim_worker import SimWorker, TimeOf
from workers.engine import EngineSpec
from workers.exchange import WorkerMessage, WorkerReport, WorkerStart

TICK_SECONDS = 1.0
"""Between two exchanges in production, at most, while something waits for an answer."""


@dataclass(slots=True)
class Account:
    """Where the GPUs' time went, GPU-seconds; and what happened."""

    busy: float = 0.0
    """On samples that were reported, those that another worker had to repeat included."""
    cut: float = 0.0
    """On samples that were in an engine when its node vanished."""
    loading: float = 0.0
    num_loads: int = 0
    num_forced: int = 0
    """Engines that a lost node took away."""
    num_outages: int = 0


class SimPool:
    """Implements `WorkerPool`. Each `exchange` moves the clock."""

    def __init__(
        self,
        nodes: Sequence[Node],
        trace: FaultTrace,
        clock: SimClock,
        *,
        time_of: TimeOf,
        load_seconds: Callable[[EngineSpec], float],
        step_seconds: float,
    ) -> None:
        self.name = "simulation"
        self.account = Account()
        self._nodes = {node.name: node for node in nodes}
        self._trace, self._clock, self._step = trace, clock, step_seconds
        self._time_of, self._load_seconds = time_of, load_seconds
        self._workers: dict[str, SimWorker] = {}
        self._lost: dict[str, Gone] = {}
        self._pending_outages = list(trace.outages)
        self._answers_due = 2  # the first rounds of a loop follow one another at once

    def nodes(self) -> list[Node]:
        """The nodes that are up, with what is free on them."""
        up = [node for node in self._nodes.values() if self._trace.is_up(node.name, self._clock.now)]
        return [replace(node, num_free=node.num_gpus - self._used(node.name)) for node in up]

    def room(self, engine: EngineSpec) -> int:
        return sum(node.num_free // engine.gpus_per_node for node in self.nodes()) // engine.num_nodes

    def start(self, start: WorkerStart) -> None:
        engine = start.engine
        able = sorted((n for n in self.nodes() if n.num_free >= engine.gpus_per_node), key=lambda n: n.num_free)
        chosen = (start.node, *start.more_nodes) if start.node else tuple(n.name for n in able[: engine.num_nodes])
        load = self._load_seconds(engine)
        self._workers[start.name] = SimWorker(start, chosen, engine.num_gpus, self._clock.now, load, self._time_of)
        self.account.num_loads += 1

    def adopt(self, wanted: Mapping[str, EngineSpec]) -> set[str]:
        return set(wanted) & set(self._workers)

    def free(self) -> set[str]:
        return set(self._workers) | set(self._lost)

    def exchange(
        self, messages: Mapping[str, WorkerMessage], timeout_seconds: float
    ) -> Mapping[str, WorkerReport | Gone]:
        self._advance(self._next_time())
        answers: dict[str, WorkerReport | Gone] = {}
        for name, message in messages.items():
            if name in self._workers:
                answers[name] = self._workers[name].exchange(message, self._clock.now)
            else:
                answers[name] = self._lost.pop(name, Gone("no such worker"))
        return answers

    def leaving(self) -> Mapping[str, float]:
        return {}

    def stop(self, names: Collection[str]) -> None:
        for name in names:
            worker = self._workers.pop(name, None)
            self._lost.pop(name, None)
            if worker is not None:
                self._settle(worker)

    def close(self, *, keep_workers: bool = False) -> None:
        self.stop(list(self._workers))

    def _next_time(self) -> float:
        """One step on, or sooner when a node goes or comes or an engine is up or has nothing to do: production would
        notice at once and answer with its next message."""
        now = self._clock.now
        if self._answers_due:
            self._answers_due -= 1
            return now + min(self._step, TICK_SECONDS)
        moments = [max(w.ready_at, w.free_at) for w in self._workers.values()]
        event = min((t for t in moments if t > now), default=inf)
        until = min(now + self._step, self._trace.next_change(now), event)
        self._answers_due = 2 if until in (event, self._trace.next_change(now)) else 0
        return until

    def _advance(self, until: float) -> None:
        """Move the clock, taking down the nodes whose time has come at the moment it comes."""
        while self._pending_outages and self._pending_outages[0].start <= until:
            outage = self._pending_outages.pop(0)
            self._clock.now = max(self._clock.now, outage.start)
            self.account.num_outages += 1
            for name in [n for n, w in self._workers.items() if outage.node in w.nodes]:
                self._lose(name)
        self._clock.now = until

    def _lose(self, name: str) -> None:
        worker = self._workers.pop(name)
        worker.advance(self._clock.now)
        self.account.num_forced += 1
        self.account.cut += worker.lost_seconds(self._clock.now) * worker.gpus
        self._settle(worker)
        self._lost[name] = Gone("its node vanished")

    def _settle(self, worker: SimWorker) -> None:
        self.account.busy += worker.busy_seconds * worker.gpus
        self.account.loading += min(worker.load_seconds, self._clock.now - worker.born) * worker.gpus

    def _used(self, node: str) -> int:
        return sum(w.gpus // len(w.nodes) for w in self._workers.values() if node in w.nodes)
