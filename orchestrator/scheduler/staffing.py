"""How many workers of which engine: pure decisions over counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """What is left to do for one engine, and who is at it."""

    num_samples: int
    """Samples of ready shards."""
    num_shards: int
    num_workers: int
    """Workers that are starting or up."""


def next_engine(demands: Mapping[str, Demand], room: Callable[[str], int]) -> str | None:
    """The engine that the next free place should load: most work left for each worker, counting the new one."""
    open_to_more = {k: d for k, d in demands.items() if d.num_shards > 0 and d.num_workers < d.num_shards + _busy(d)}
    for key in sorted(open_to_more, key=lambda k: -_work_each(open_to_more[k])):
        if room(key) > 0:
            return key
    return None


def _busy(demand: Demand) -> int:
    """Workers already there may all be busy with leased shards, so each ready shard may still get one."""
    return demand.num_workers


def _work_each(demand: Demand) -> float:
    return demand.num_samples / (demand.num_workers + 1)


def surplus_engines(demands: Mapping[str, Demand]) -> set[str]:
    """Engines without ready work, whose idle workers should make way when another engine wants their place."""
    waiting = any(d.num_shards > 0 and d.num_workers == 0 for d in demands.values())
    return {key for key, d in demands.items() if d.num_shards == 0} if waiting else set()


def num_shards_to_claim(
    *, num_held: int, num_wanted: int, samples_per_shard: int, num_ready: int, num_workers: int, num_least: int
) -> int:
    """Shards to give a worker that holds `num_held` unfinished samples and should hold `num_wanted`.

    Never more than its share of half of what is ready, so that the last shards are spread evenly; a worker
    with fewer than `num_least` samples always gets one.
    """
    short = num_wanted - num_held
    if short <= 0 or num_ready <= 0:
        return 0
    needed = -(-short // max(1, samples_per_shard))
    fair = num_ready // (2 * max(1, num_workers))
    return min(needed, num_ready, max(fair, int(num_held < num_least)))


def samples_wanted(*, max_in_flight: int, per_second: float, lookahead_seconds: float) -> int:
    """Unfinished samples that keep an engine fed, a store outage of `lookahead_seconds` included."""
    return max(2 * max_in_flight, round(per_second * lookahead_seconds))
