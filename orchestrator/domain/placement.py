"""Which engine goes to which node. The scheduler keeps this map itself: Ray's own placement fragments nodes.

A *gang* is the GPUs of one engine, all on one node (STRICT_PACK), unless its demand allows several nodes. Free GPUs
of a node are filled by the set of gangs that uses most of them; among those, the set worth most (remaining work per
engine, higher priorities first). So no GPU is stranded while a legal filling of its node exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A host and what is free on it."""

    name: str
    gpu_type: str = ""
    num_gpus: int
    num_free: int
    draining: bool = False
    """It will go away: nothing new is placed on it."""
    seconds_left: float | None = None
    """Until its walltime ends; None means without end."""

    @property
    def open_gpus(self) -> int:
        return 0 if self.draining else self.num_free


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Engines of one kind that a campaign could use."""

    key: str
    """The engine's identity: model, context length, RoPE."""
    gpus: Mapping[str, int] = field(default_factory=dict)
    """GPUs of one engine by GPU type; `""` is the answer for every other type. An absent type cannot run it."""
    remaining_seconds: float
    """Work left, seconds of one engine."""
    num_engines: int = 0
    """Engines of this kind that are running or starting."""
    load_seconds: float = 0.0
    priority: int = 0
    max_engines: int | None = None
    """As many as it has shards left, or as its campaign's GPU budget allows."""
    num_nodes: int = 1
    """Above 1 only when asked for: the gang is split evenly over so many nodes."""

    def gang_size(self, gpu_type: str) -> int | None:
        """GPUs of one engine on a node of that type, or None when it cannot run there."""
        return self.gpus.get(gpu_type, self.gpus.get(""))

    def wants_more(self, extra: int = 0) -> bool:
        """Another engine would find work for longer than it takes to load."""
        engines = self.num_engines + extra
        if self.max_engines is not None and engines >= self.max_engines:
            return False
        if engines == 0:
            return self.remaining_seconds > 0
        return self.remaining_seconds / (engines + 1) > self.load_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One engine to start: its kind, its nodes, and the GPUs that it takes on each."""

    key: str
    nodes: tuple[str, ...]
    gpus_per_node: int


@dataclass(frozen=True, slots=True)
class _Filling:
    """Gangs chosen for one node, by position in the list of demands."""

    used: int = 0
    value: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


def place_engines(nodes: Sequence[Node], demands: Sequence[Demand]) -> list[Placement]:
    """Engines to start now on the free GPUs. Smallest holes first, so that large ones stay for large gangs."""
    placements, open_demands, left = place_spanning(nodes, demands)
    by_value = _fill_all(left, open_demands, prefer_large=False)
    by_size = _fill_all(left, open_demands, prefer_large=True)
    return placements + max(by_value, by_size, key=_total_gpus)


def _total_gpus(placements: Sequence[Placement]) -> int:
    return sum(p.gpus_per_node * len(p.nodes) for p in placements)


def place_spanning(nodes: Sequence[Node], wanted: Sequence[Demand]) -> tuple[list[Placement], list[Demand], list[Node]]:
    """Gangs over several nodes (on request only) come first: they need whole equal shares of several nodes at once.

    Returns them, the demands with the engines that they got, and the nodes with what is left free.
    """
    demands = list(wanted)
    left = {node.name: node for node in nodes}
    placed: list[Placement] = []
    for index, demand in enumerate(demands):
        while demand.num_nodes > 1 and demand.wants_more():
            chosen = _spanning_nodes(list(left.values()), demand)
            if chosen is None:
                break
            share = (demand.gang_size(chosen[0].gpu_type) or 0) // demand.num_nodes
            placed.append(Placement(key=demand.key, nodes=tuple(n.name for n in chosen), gpus_per_node=share))
            for node in chosen:
                left[node.name] = replace(node, num_free=node.num_free - share)
            demand = replace(demand, num_engines=demand.num_engines + 1)
        demands[index] = demand
    return placed, demands, list(left.values())


def _spanning_nodes(nodes: Sequence[Node], demand: Demand) -> list[Node] | None:
    for gpu_type in dict.fromkeys(node.gpu_type for node in nodes):
        size = demand.gang_size(gpu_type)
        if size is None or size % demand.num_nodes:
            continue
        share = size // demand.num_nodes
        able = [n for n in nodes if n.gpu_type == gpu_type and n.open_gpus >= share and _time_for(n, demand)]
        if len(able) >= demand.num_nodes:
            return sorted(able, key=lambda n: n.open_gpus)[: demand.num_nodes]
    return None


def _time_for(node: Node, demand: Demand) -> bool:
    """A node near its walltime is not worth a load that takes half of what is left."""
    return node.seconds_left is None or node.seconds_left > 2 * demand.load_seconds


def _fill_all(nodes: Sequence[Node], demands: Sequence[Demand], *, prefer_large: bool) -> list[Placement]:
    current = [d for d in demands if d.num_nodes == 1]
    placements: list[Placement] = []
    for node in sorted(nodes, key=lambda n: (n.open_gpus, n.name)):
        counts = _fill_node(node, current, prefer_large=prefer_large)
        for index, count in enumerate(counts):
            demand = current[index]
            size = demand.gang_size(node.gpu_type) or 0
            placements += [Placement(key=demand.key, nodes=(node.name,), gpus_per_node=size)] * count
            current[index] = replace(demand, num_engines=demand.num_engines + count)
    return placements


def _fill_node(node: Node, demands: Sequence[Demand], *, prefer_large: bool) -> tuple[int, ...]:
    """How many engines of each demand to start on this node: a bounded knapsack over its open GPUs."""
    best: dict[int, _Filling] = {0: _Filling()}
    for demand in demands:
        size = demand.gang_size(node.gpu_type)
        able = size is not None and _time_for(node, demand)
        best = _extend(best, demand, size if able else None, node.open_gpus, prefer_large)
    chosen = max(best.values(), key=lambda filling: (filling.used, filling.value))
    return chosen.counts


def _extend(
    best: Mapping[int, _Filling], demand: Demand, size: int | None, room: int, prefer_large: bool
) -> dict[int, _Filling]:
    extended: dict[int, _Filling] = {}
    for filling in best.values():
        count, value = 0, filling.value or (0.0, 0.0, 0.0)
        while True:
            used = filling.used + count * (size or 0)
            candidate = _Filling(used, value, (*filling.counts, count))
            if used not in extended or value > extended[used].value:
                extended[used] = candidate
            if size is None or used + size > room or not demand.wants_more(count):
                break
            value = _add_value(value, demand, count, size, prefer_large)
            count += 1
    return extended


def _add_value(
    value: tuple[float, ...], demand: Demand, count: int, size: int, prefer_large: bool
) -> tuple[float, ...]:
    """Worth of one more engine: priority × GPUs first, then the remaining work that each engine would carry."""
    share = size * demand.remaining_seconds / (demand.num_engines + count + 1)
    large = float(size * size) if prefer_large else 0.0
    return (value[0] + large, value[1] + demand.priority * size, value[2] + share)


def too_large(demands: Mapping[str, int], nodes: Sequence[Node]) -> dict[str, str]:
    """Engines (GPUs by key) that no node here can hold whole, each with one line that says so."""
    most = max((node.num_gpus for node in nodes), default=0)
    return {
        key: f"it needs {gpus} GPUs of one node, and the largest node has {most}: choose a smaller tensor_parallel, or "
        "add a larger node; gangs over several nodes are not started"
        for key, gpus in demands.items()
        if gpus > most
    }


def choose_gang_sizes(fits: Callable[[str, int], bool], gpu_types: Mapping[str, int], *, wanted: int) -> dict[str, int]:
    """GPUs of one engine by type: the wanted number where it fits, else the next larger power of two on one node.

    `gpu_types` gives the GPUs of a node by type; a type on which nothing fits is left out.
    """
    sizes: dict[str, int] = {}
    for gpu_type, per_node in gpu_types.items():
        size = wanted
        while size <= per_node and not fits(gpu_type, size):
            size *= 2
        if size <= per_node:
            sizes[gpu_type] = size
    return sizes


def budget_allows(budget_hours: float | None, used_hours: float, committed_hours: float, next_hours: float) -> bool:
    """May a shard of `next_hours` GPU-hours start, given those used and those that running shards will still take?

    A campaign with some budget left and nothing running may always start one shard.
    """
    if budget_hours is None:
        return True
    if committed_hours == 0:
        return used_hours < budget_hours
    return used_hours + committed_hours + next_hours <= budget_hours
