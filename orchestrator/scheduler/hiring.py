"""Which engines to start where, and which to let go, when the pool shows its nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.domain.engine_mix import EngineMix
from orchestrator.domain.pace import Pace
from orchestrator.domain.placement import Demand, Node, Placement
from orchestrator.scheduler.member import Member
from orchestrator.store.plan import Remaining
from workers.engine import GANGS_BY_GPU, EngineSpec

LOAD_SECONDS = 120.0
"""Assumed for an engine until one of its kind has loaded."""
UNKNOWN_SHARE = 1 / 3
"""Most of a node's walltime that an assumed load takes: a guess must not keep the first engine from being tried."""


class Hiring:
    """Remembers how long loads take and how large the campaign was at first."""

    def __init__(self, engines: Mapping[str, EngineSpec]) -> None:
        self._engines = engines
        self._load_seconds: dict[str, float] = {}
        self._mix = EngineMix()
        self._pace = Pace()

    def note_load(self, engine_key: str, seconds: float) -> None:
        """An engine of this kind took so long to load."""
        self._load_seconds[engine_key] = seconds

    def choose(
        self,
        nodes: Sequence[Node],
        left: Mapping[str, Remaining],
        members: Iterable[Member],
        barred: Iterable[str],
        now: float,
    ) -> list[Placement]:
        """Engines to start now, each with its node; never one of the `barred` kinds."""
        members = list(members)
        working = Counter(m.engine_key for m in members if m.is_up and m.seen and m.num_held)
        self._pace.note({key: work.seconds for key, work in left.items()}, working, now)
        return self._mix.choose(nodes, self._demands(left, members, set(barred), _assumed_load(nodes)), now)

    def leavers(
        self, nodes: Sequence[Node], left: Mapping[str, Remaining], members: Sequence[Member], now: float
    ) -> list[Member]:
        """At most one worker of a kind that can finish in time without it, while another kind cannot."""
        leaving = [member for member in members if member.told_to_drain]
        here = [member for member in members if not member.told_to_drain and member.is_up]
        key = self._mix.makes_way(
            _soon_free(nodes, leaving), self._demands(left, members, set(), _assumed_load(nodes)), now
        )
        own = [member for member in here if member.engine_key == key]
        return [min(own, key=lambda m: m.num_held)] if own else []

    def _demands(
        self, left: Mapping[str, Remaining], members: Iterable[Member], barred: set[str], assumed_load: float
    ) -> list[Demand]:
        staff = Counter(member.engine_key for member in members if not member.told_to_drain)
        found = []
        for key, engine in self._engines.items():
            work = left.get(key)
            if work is None or key in barred:
                continue
            found.append(
                Demand(
                    key=key,
                    gpus=_gangs(engine),
                    num_nodes=engine.num_nodes,
                    remaining_seconds=work.seconds * self._pace.factor(key),
                    num_engines=staff[key],
                    load_seconds=self._load_seconds.get(key, assumed_load),
                    max_engines=staff[key] + work.num_shards,
                )
            )
        return found


def _gangs(engine: EngineSpec) -> dict[str, int]:
    """GPUs of one engine by GPU type."""
    by_type = {"": engine.tensor_parallel, **engine.options.get(GANGS_BY_GPU, {})}
    return {gpu_type: size * engine.pipeline_parallel for gpu_type, size in by_type.items()}


def _assumed_load(nodes: Sequence[Node]) -> float:
    """Seconds that a load of a kind never seen is taken to last."""
    ends = [node.seconds_left for node in nodes if node.seconds_left is not None]
    return max(0.0, min([LOAD_SECONDS, *(left * UNKNOWN_SHARE for left in ends)]))


def _soon_free(nodes: Sequence[Node], leaving: Iterable[Member]) -> list[Node]:
    """The nodes with what those who are leaving will free, so that nobody else leaves for the same work."""
    freed: Counter[str] = Counter()
    for member in leaving:
        freed.update(dict.fromkeys(member.nodes, member.engine.gpus_per_node))
    return [replace(node, num_free=min(node.num_gpus, node.num_free + freed[node.name])) for node in nodes]
