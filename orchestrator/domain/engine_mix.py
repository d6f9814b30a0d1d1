"""How many engines of each kind, so that all work ends together with few loads.

If every GPU worked to the end, the campaign would end after T = remaining GPU-seconds / GPUs. A kind whose engines
cannot finish its work within T has an *excess*; free GPUs go to the kinds with an excess, and an engine whose kind
can finish within T without it makes way when another kind has one. A load is worth it when it lets each engine of its
kind that is there already end `least_run_seconds` sooner. (McNaughton's wrap-around rule, 1959, gives as many loads as
engines plus kinds; this stays close.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from orchestrator.domain.placement import Demand, Node, Placement, place_engines

LEAST_RUN_SHARE = 0.008
"""Of the whole campaign's ideal duration: what a further engine must take off each one that is there."""


def ideal_seconds(demands: Sequence[Demand], num_gpus: int) -> float:
    """T: the time until all is done if every GPU works to the end."""
    return sum(d.remaining_seconds * gang_size(d) for d in demands) / max(1, num_gpus)


def gang_size(demand: Demand) -> int:
    """GPUs of one engine; the smallest of its sizes where types differ."""
    return min(demand.gpus.values(), default=1) or 1


def least_run_seconds(demands: Sequence[Demand], num_gpus: int) -> float:
    """What a load must spare each engine, from the work at the campaign's start."""
    return LEAST_RUN_SHARE * ideal_seconds(demands, num_gpus)


def choose_engines(
    nodes: Sequence[Node], demands: Sequence[Demand], *, least_run_seconds: float = 0.0
) -> list[Placement]:
    """Engines to start now on the free GPUs. `demands` list every kind with work left, with or without engines."""
    if not any(node.open_gpus for node in nodes):
        return []
    num_gpus = sum(node.num_gpus for node in nodes)
    ideal = ideal_seconds(demands, num_gpus)
    wanted = [_more(demand, ideal, least_run_seconds) for demand in demands]
    return place_engines(nodes, [demand for demand in wanted if demand is not None])


def _more(demand: Demand, ideal: float, least_run: float) -> Demand | None:
    """The demand for further engines only: its excess, and how many engines that keeps busy until the end."""
    excess = demand.remaining_seconds - demand.num_engines * ideal
    worth = max(least_run * max(1, demand.num_engines), demand.load_seconds)
    more = ceil((excess - worth) / max(ideal, 1e-9)) if excess > worth else 0
    if demand.num_engines == 0 and demand.remaining_seconds > 0:
        more = max(1, more)
    if demand.max_engines is not None:
        more = min(more, demand.max_engines - demand.num_engines)
    if more <= 0:
        return None
    return replace(demand, remaining_seconds=max(excess, 1e-9), num_engines=0, max_engines=more)


def may_make_way(key: str, demands: Sequence[Demand], *, num_gpus: int, least_run_seconds: float = 0.0) -> bool:
    """Whether an engine of kind `key` should stop after its shard: its kind ends in time without it, another's not.

    `num_gpus` counts GPUs that are away for a while too: else every lost node would shuffle the others.
    """
    ideal = ideal_seconds(demands, num_gpus)
    own = next((d for d in demands if d.key == key), None)
    if own is None or own.num_engines < 2 or own.remaining_seconds > (own.num_engines - 1) * ideal:
        return False
    return any(_could_use(other, own, ideal, least_run_seconds) for other in demands)


def _could_use(other: Demand, own: Demand, ideal: float, least_run: float) -> bool:
    if other.key == own.key or gang_size(other) > gang_size(own) or other.priority < own.priority:
        return False
    more = _more(other, ideal, least_run)
    return more is not None
