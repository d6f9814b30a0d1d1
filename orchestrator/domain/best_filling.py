"""The arrangement of gangs on nodes that uses most GPUs, by search; for the rare mixtures that a greedy fill misses.

Such are GPU types on which one kind has different sizes, and sizes that do not divide one another. Kinds that are alike
in size on every node count as one. The search gives up beyond `MOST_STATES` and then offers nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from orchestrator.domain.placement import Demand, Node, Placement

MOST_STATES = 20_000

_Counts = tuple[int, ...]


class _TooMany(Exception):
    """More states than the search may visit."""


def best_filling(nodes: Sequence[Node], wanted: Sequence[tuple[Demand, int]]) -> list[Placement]:
    """Starts of at most so many engines of each kind, with most GPUs in use; empty when the search is too large."""
    alike: dict[tuple[int, ...], list[tuple[Demand, int]]] = defaultdict(list)
    for demand, number in wanted:
        sizes = tuple(demand.share_on(node) or 0 for node in nodes)
        if number > 0 and any(sizes):
            alike[sizes].append((demand, number))
    search = _Search([node.open_gpus for node in nodes], list(alike))
    try:
        per_node = search.run(tuple(sum(number for _, number in group) for group in alike.values()))
    except _TooMany:
        return []
    return _hand_out(nodes, list(alike.items()), per_node)


class _Search:
    """Most GPUs in use on the nodes from `first` on, for each number of engines left by class of sizes."""

    def __init__(self, room: Sequence[int], classes: Sequence[tuple[int, ...]]) -> None:
        self._room, self._classes = room, classes
        self._known: dict[tuple[int, _Counts], tuple[int, _Counts]] = {}

    def run(self, numbers: _Counts) -> list[_Counts]:
        """Engines of each class by node."""
        chosen = []
        for node in range(len(self._room)):
            _, counts = self._best(node, self._capped(node, numbers))
            chosen.append(counts)
            numbers = tuple(n - c for n, c in zip(numbers, counts, strict=True))
        return chosen

    def _best(self, node: int, numbers: _Counts) -> tuple[int, _Counts]:
        if node == len(self._room):
            return 0, tuple(0 for _ in numbers)
        if (node, numbers) not in self._known:
            if len(self._known) >= MOST_STATES:
                raise _TooMany
            self._known[node, numbers] = max(self._options(node, numbers))
        return self._known[node, numbers]

    def _options(self, node: int, numbers: _Counts) -> Iterator[tuple[int, _Counts]]:
        for counts in self._fillings(node, numbers, 0, self._room[node]):
            left = tuple(n - c for n, c in zip(numbers, counts, strict=True))
            used = sum(c * sizes[node] for c, sizes in zip(counts, self._classes, strict=True))
            yield used + self._best(node + 1, self._capped(node + 1, left))[0], counts

    def _fillings(self, node: int, numbers: _Counts, index: int, room: int) -> Iterator[_Counts]:
        """Every set of gangs of the classes from `index` on that fits into the room."""
        if index == len(self._classes):
            yield ()
            return
        size = self._classes[index][node]
        most = min(numbers[index], room // size) if size else 0
        for count in range(most + 1):
            for others in self._fillings(node, numbers, index + 1, room - count * size):
                yield (count, *others)

    def _capped(self, node: int, numbers: _Counts) -> _Counts:
        """No more of a class than the nodes from here on could hold: fewer states that differ in nothing."""
        holds = [
            sum(room // size for room, size in zip(self._room[node:], sizes[node:], strict=True) if size)
            for sizes in self._classes
        ]
        return tuple(map(min, numbers, holds))


def _hand_out(
    nodes: Sequence[Node],
    alike: Sequence[tuple[tuple[int, ...], Sequence[tuple[Demand, int]]]],
    per_node: Sequence[_Counts],
) -> list[Placement]:
    """Within a class, higher priorities first, then the kind with most work for each of its engines."""
    placements = []
    left = [dict(enumerate(number for _, number in group)) for _, group in alike]
    for index, node in enumerate(nodes):
        for position, (sizes, group) in enumerate(alike):
            for _ in range(per_node[index][position]):
                key = _take_one(group, left[position])
                placements.append(Placement(key=key, nodes=(node.name,), gpus_per_node=sizes[index]))
    return placements


def _take_one(group: Sequence[tuple[Demand, int]], left: dict[int, int]) -> str:
    """The kind of a class that gets the next engine; counts it off."""

    def worth(index: int) -> tuple[float, float]:
        demand, number = group[index]
        return demand.priority, demand.remaining_seconds / (demand.num_engines + number - left[index] + 1)

    chosen = max((index for index, number in left.items() if number), key=worth)
    left[chosen] -= 1
    return group[chosen][0].key
