"""What one does without a scheduler: static splitting, and first in, first out. Same work, loads and faults as ours.

Both cut every node (or as many nodes as the largest gang spans) into slots of that gang's size; a slot runs as many
engines of a model side by side as fit, and reloads when the engine kind changes. As with ours, outcomes stream, so a
lost node costs only what was in flight, the time away and the reload; and an engine that gets nothing more to do needs
half a batch's time for what it has begun. What is left in their favour: work is spread evenly over the engines of a
slot, and handed out without delay.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.domain.placement import Node
from orchestrator.scheduler.simulation.faults import FaultTrace, Outage


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One cell (or a part of it) for one engine kind."""

    engine: str
    gpus: int
    seconds: float
    """Of one engine."""
    load_seconds: float
    expected_seconds: float | None = None
    """What a planner believes beforehand; None: the truth."""
    in_flight_seconds: float = 0.0
    """Engine seconds that a sudden loss throws away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineResult:
    """How a policy did."""

    makespan_seconds: float
    num_loads: int
    load_gpu_seconds: float
    lost_gpu_seconds: float


@dataclass(slots=True)
class _Slot:
    gpus: int
    outages: Sequence[Outage]
    now: float = 0.0
    engine: str = ""
    tail_seconds: float = 0.0
    """What the engines take to finish what they have begun, when nothing follows for them."""
    num_loads: int = 0
    load_gpu_seconds: float = 0.0
    lost_gpu_seconds: float = 0.0
    next_outage: int = field(default=0)

    def run(self, work: Work) -> None:
        """Do one piece of work, through however many outages."""
        left = work.seconds * work.gpus / self._used(work)
        while left > 1e-9:
            if self.engine != work.engine:
                self._load(work)
                continue
            end = self.now + left
            outage = self._outage_before(end)
            if outage is None:
                self.now, left, self.tail_seconds = end, 0.0, work.in_flight_seconds
            else:
                done = outage.start - self.now
                lost = min(done, work.in_flight_seconds * work.gpus / self._used(work))
                left -= done - lost
                self.lost_gpu_seconds += lost * self._used(work)
                self._fall(outage)

    def _used(self, work: Work) -> int:
        return max(1, self.gpus // work.gpus) * work.gpus

    def finish(self) -> None:
        """Nothing follows for the engines that are loaded."""
        outage = self._outage_before(self.now + self.tail_seconds)
        self.now += self.tail_seconds if outage is None else 0.0
        self.tail_seconds = 0.0

    def _load(self, work: Work) -> None:
        self.finish()
        self.num_loads += self._used(work) // work.gpus
        end = self.now + work.load_seconds
        outage = self._outage_before(end)
        if outage is None:
            self.load_gpu_seconds += work.load_seconds * self._used(work)
            self.now, self.engine = end, work.engine
        else:
            self.load_gpu_seconds += (outage.start - self.now) * self._used(work)
            self._fall(outage)

    def _outage_before(self, end: float) -> Outage | None:
        while self.next_outage < len(self.outages) and self.outages[self.next_outage].end <= self.now:
            self.next_outage += 1
        if self.next_outage < len(self.outages) and self.outages[self.next_outage].start < end:
            return self.outages[self.next_outage]
        return None

    def _fall(self, outage: Outage) -> None:
        self.now, self.engine, self.tail_seconds = max(self.now, outage.end), "", 0.0
        self.next_outage += 1


def static_splitting(nodes: Sequence[Node], trace: FaultTrace, work: Sequence[Work]) -> BaselineResult:
    """Each slot gets its share beforehand (longest first to the least loaded slot) and keeps it."""
    slots = _slots(nodes, trace, work)
    queues: list[list[Work]] = [[] for _ in slots]
    loads = [(0.0, index) for index in range(len(slots))]
    heapq.heapify(loads)
    for item in sorted(work, key=lambda w: -_expected(w) * w.gpus):
        load, index = heapq.heappop(loads)
        queues[index].append(item)
        heapq.heappush(loads, (load + _expected(item) * item.gpus / slots[index].gpus, index))
    for slot, queue in zip(slots, queues, strict=True):
        for item in sorted(queue, key=lambda w: w.engine):
            slot.run(item)
    return _result(slots)


def _expected(work: Work) -> float:
    return work.seconds if work.expected_seconds is None else work.expected_seconds


def first_in_first_out(nodes: Sequence[Node], trace: FaultTrace, work: Iterable[Work]) -> BaselineResult:
    """Whichever slot is free next takes the next piece in the order of the grid."""
    items = list(work)
    slots = _slots(nodes, trace, items)
    free = [(0.0, index) for index in range(len(slots))]
    heapq.heapify(free)
    for item in items:
        _, index = heapq.heappop(free)
        slots[index].run(item)
        heapq.heappush(free, (slots[index].now, index))
    return _result(slots)


BASELINES: dict[str, Callable[[Sequence[Node], FaultTrace, Sequence[Work]], BaselineResult]] = {
    "static": static_splitting,
    "fifo": first_in_first_out,
}


def _slots(nodes: Sequence[Node], trace: FaultTrace, work: Sequence[Work]) -> list[_Slot]:
    size = max(item.gpus for item in work)
    slots, group = [], list[Node]()
    for node in nodes:
        group.append(node)
        together = sum(n.num_gpus for n in group)
        if together >= size:
            outages = sorted((o for n in group for o in trace.of_node(n.name)), key=lambda o: o.start)
            slots += [_Slot(gpus=size, outages=outages) for _ in range(together // size)]
            group = []
    return slots


def _result(slots: Sequence[_Slot]) -> BaselineResult:
    for slot in slots:
        slot.finish()
    return BaselineResult(
        makespan_seconds=max(slot.now for slot in slots),
        num_loads=sum(slot.num_loads for slot in slots),
        load_gpu_seconds=sum(slot.load_gpu_seconds for slot in slots),
        lost_gpu_seconds=sum(slot.lost_gpu_seconds for slot in slots),
    )
