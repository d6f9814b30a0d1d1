"""Fill free GPUs with the engines that are wanted, so that no GPU is stranded while a legal packing would use it.

How many engines are wanted, that is, which loads are worth their time, is decided above (`engine_mix`); a GPU that
stays idle by that decision is idle on purpose. Here no wanted engine waits for want of a better arrangement: of the
arrangements tried, the one that uses most GPUs is taken, and the plan's own wherever none uses more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.domain.best_filling import best_filling
from orchestrator.domain.placement import Demand, Node, Placement


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many further engines of this kind should start as soon as GPUs allow."""

    demand: Demand
    number: int


def place_engines(
    nodes: Sequence[Node], wanted: Sequence[Wanted], planned: Sequence[Placement] = ()
) -> list[Placement]:
    """Engines to start now on the free GPUs, each whole on one node. `planned` are legal starts that are kept unless
    another arrangement uses more GPUs; kinds that span nodes are left to `place_spanning`."""
    single = [w for w in wanted if w.demand.num_nodes == 1]
    most = _most_gpus(nodes, single)
    rest = _without(nodes, planned), _fewer(single, planned)
    best = [*planned, *_fill_all(*rest, prefer_large=False)]
    for prefer_large in (True, False):
        if used_gpus(best) < most:
            best = max(best, _fill_all(nodes, single, prefer_large=prefer_large), key=used_gpus)
    if used_gpus(best) < most:
        best = max(best, best_filling(nodes, [(w.demand, w.number) for w in single]), key=used_gpus)
    return best


def used_gpus(placements: Sequence[Placement]) -> int:
    return sum(p.gpus_per_node * len(p.nodes) for p in placements)


def place_spanning(nodes: Sequence[Node], wanted: Sequence[Wanted]) -> tuple[list[Placement], list[Node]]:
    """Gangs over several nodes (on request only) come first: they need equal shares of several nodes at once.

    Returns them and the nodes with what is left free.
    """
    placed: list[Placement] = []
    for one in (w for w in wanted if w.demand.num_nodes > 1):
        for _ in range(one.number):
            chosen = _spanning_nodes(_without(nodes, placed), one.demand)
            if chosen is None:
                break
            placed.append(chosen)
    return placed, _without(nodes, placed)


def _spanning_nodes(nodes: Sequence[Node], demand: Demand) -> Placement | None:
    """Nodes of one type with a share free on each; the fullest ones, so that empty ones stay whole."""
    for gpu_type in dict.fromkeys(node.gpu_type for node in nodes):
        of_type = [n for n in nodes if n.gpu_type == gpu_type]
        able = [n for n in of_type if (share := demand.share_on(n)) is not None and n.open_gpus >= share]
        if len(able) >= demand.num_nodes:
            chosen = sorted(able, key=lambda n: (n.open_gpus, n.name))[: demand.num_nodes]
            share = demand.share_on(chosen[0]) or 0
            return Placement(key=demand.key, nodes=tuple(n.name for n in chosen), gpus_per_node=share)
    return None


def _without(nodes: Sequence[Node], placed: Sequence[Placement]) -> list[Node]:
    taken: Counter[str] = Counter()
    for placement in placed:
        taken.update(dict.fromkeys(placement.nodes, placement.gpus_per_node))
    return [replace(node, num_free=node.num_free - taken[node.name]) for node in nodes]


def _fewer(wanted: Sequence[Wanted], placed: Sequence[Placement]) -> list[Wanted]:
    got = Counter(placement.key for placement in placed)
    return [Wanted(_with_engines(w.demand, got[w.demand.key]), w.number - got[w.demand.key]) for w in wanted]


def _with_engines(demand: Demand, more: int) -> Demand:
    return replace(demand, num_engines=demand.num_engines + more)


def _most_gpus(nodes: Sequence[Node], wanted: Sequence[Wanted]) -> int:
    """No arrangement uses more: what each node could give to gangs of these sizes, and what all engines would take."""
    by_node = all_engines = 0
    for node in nodes:
        reached = {0}
        for size in {share for w in wanted if w.number > 0 and (share := w.demand.share_on(node))}:
            for used in range(node.open_gpus - size + 1):
                reached |= {used + size} if used in reached else set()
        by_node += max(reached)
    for one in wanted:
        all_engines += max(0, one.number) * max((one.demand.share_on(node) or 0 for node in nodes), default=0)
    return min(by_node, all_engines)


@dataclass(frozen=True, slots=True)
class _Filling:
    """Gangs chosen for one node, by position in the list of kinds."""

    used: int = 0
    value: tuple[float, ...] = (0.0, 0.0, 0.0)
    counts: tuple[int, ...] = ()


def _fill_all(nodes: Sequence[Node], wanted: Sequence[Wanted], *, prefer_large: bool) -> list[Placement]:
    """Node by node, smallest holes first, so that large ones stay for large gangs."""
    current = list(wanted)
    placements: list[Placement] = []
    for node in sorted(nodes, key=lambda n: (n.open_gpus, n.name)):
        if not node.open_gpus:
            continue
        for index, count in enumerate(_fill_node(node, current, prefer_large)):
            one = current[index]
            share = one.demand.share_on(node) or 0
            placements += [Placement(key=one.demand.key, nodes=(node.name,), gpus_per_node=share)] * count
            current[index] = Wanted(_with_engines(one.demand, count), one.number - count)
    return placements


def _fill_node(node: Node, wanted: Sequence[Wanted], prefer_large: bool) -> tuple[int, ...]:
    """How many engines of each kind to start on this node: a bounded knapsack over its open GPUs."""
    best: Mapping[int, _Filling] = {0: _Filling()}
    for one in wanted:
        best = _extend(best, one, one.demand.share_on(node), node.open_gpus, prefer_large)
    return max(best.values(), key=lambda filling: (filling.used, filling.value)).counts


def _extend(
    best: Mapping[int, _Filling], one: Wanted, size: int | None, room: int, prefer_large: bool
) -> dict[int, _Filling]:
    extended: dict[int, _Filling] = {}
    for filling in best.values():
        value, count = filling.value, 0
        while True:
            used = filling.used + count * (size or 0)
            if used not in extended or value > extended[used].value:
                extended[used] = _Filling(used, value, (*filling.counts, count))
            if not size or used + size > room or count >= one.number:
                break
            value = _add_value(value, one.demand, count, size, prefer_large)
            count += 1
    return extended


def _add_value(
    value: tuple[float, ...], demand: Demand, count: int, size: int, prefer_large: bool
) -> tuple[float, ...]:
    """Worth of one more engine: priority × GPUs first, then the remaining work that each engine would carry."""
    share = size * demand.remaining_seconds / (demand.num_engines + count + 1)
    large = float(size * size) if prefer_large else 0.0
    return (value[0] + large, value[1] + demand.priority * size, value[2] + share)
