"""When nodes vanish and return, drawn once for a simulation so that every policy meets the same faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from orchestrator.domain.placement import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One node is away from `start` to `end`, seconds."""

    node: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class FaultTrace:
    """All outages, by start."""

    outages: tuple[Outage, ...] = ()

    def is_up(self, node: str, at: float) -> bool:
        return not any(o.node == node and o.start <= at < o.end for o in self.outages)

    def of_node(self, node: str) -> tuple[Outage, ...]:
        return tuple(o for o in self.outages if o.node == node)

    def next_change(self, after: float) -> float:
        """The next moment at which a node goes or returns; infinite when none does."""
        return min((t for o in self.outages for t in (o.start, o.end) if t > after), default=inf)


def draw_faults(
    nodes: Sequence[Node], *, mtbf_seconds: float | None, away_seconds: float, horizon_seconds: float, seed: int
) -> FaultTrace:
    """Each node is lost after an exponential time of mean `mtbf_seconds` and is back, cold, `away_seconds` later."""
    if mtbf_seconds is None:
        return FaultTrace()
    outages = []
    for index, node in enumerate(nodes):
        rng = random.Random(seed * 100_003 + index)
        at = rng.expovariate(1 / mtbf_seconds)
        while at < horizon_seconds:
            outages.append(Outage(node=node.name, start=at, end=at + away_seconds))
            at += away_seconds + rng.expovariate(1 / mtbf_seconds)
    return FaultTrace(tuple(sorted(outages, key=lambda o: o.start)))


def lower_bound(nodes: Sequence[Node], trace: FaultTrace, useful_gpu_seconds: float) -> float:
    """The moment at which the GPUs that were up have offered that much time: no schedule can end earlier."""
    offered, at = 0.0, 0.0
    while True:
        until = trace.next_change(at)
        up = sum(node.num_gpus for node in nodes if trace.is_up(node.name, at))
        if up and offered + up * (until - at) >= useful_gpu_seconds:
            return at + (useful_gpu_seconds - offered) / up
        if until == inf:
            return inf
        offered, at = offered + up * (until - at), until
