"""Which engines to start where, and which to let go, when the pool shows its nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.domain.engine_mix import choose_engines, least_run_seconds, may_make_way
from orchestrator.domain.placement import Demand, Node, Placement
from orchestrator.scheduler.member import Member
from orchestrator.store.plan import Remaining
from workers.engine import EngineSpec

LOAD_SECONDS = 120.0
"""Assumed for an engine until one of its kind has loaded."""


class Hiring:
    """Remembers how long loads take and how large the campaign was at first."""

    def __init__(self, engines: Mapping[str, EngineSpec]) -> None:
        self._engines = engines
        self._load_seconds: dict[str, float] = {}
        self._least_run: float | None = None
        self._num_gpus = 0

    def note_load(self, engine_key: str, seconds: float) -> None:
        """An engine of this kind took so long to load."""
        self._load_seconds[engine_key] = seconds

    def choose(
        self,
        nodes: Sequence[Node],
        left: Mapping[str, Remaining],
        members: Iterable[Member],
        barred: Iterable[str] = (),
    ) -> list[Placement]:
        """Engines to start now, each with its node; never one of the `barred` kinds."""
        self._num_gpus = max(self._num_gpus, sum(node.num_gpus for node in nodes))
        demands = self._demands(left, members, set(barred))
        if self._least_run is None and nodes:
            self._least_run = least_run_seconds(demands, self._num_gpus)
        return choose_engines(nodes, demands, least_run_seconds=self._least_run or 0.0)

    def leavers(self, left: Mapping[str, Remaining], members: Sequence[Member]) -> list[Member]:
        """At most one worker of a kind that can finish in time without it, while another kind cannot."""
        here = [member for member in members if not member.told_to_drain and member.is_up]
        demands = self._demands(left, members, set())
        for key in sorted({member.engine_key for member in here}):
            if may_make_way(key, demands, num_gpus=self._num_gpus, least_run_seconds=self._least_run or 0.0):
                return [min((m for m in here if m.engine_key == key), key=lambda m: m.num_held)]
        return []

    def _demands(self, left: Mapping[str, Remaining], members: Iterable[Member], barred: set[str]) -> list[Demand]:
        staff = Counter(member.engine_key for member in members if not member.told_to_drain)
        found = []
        for key, engine in self._engines.items():
            work = left.get(key)
            if work is None or key in barred:
                continue
            found.append(
                Demand(
                    key=key,
                    gpus={"": engine.tensor_parallel},
                    remaining_seconds=work.seconds,
                    num_engines=staff[key],
                    load_seconds=self._load_seconds.get(key, LOAD_SECONDS),
                    max_engines=staff[key] + work.num_shards,
                )
            )
        return found
