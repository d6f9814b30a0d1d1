"""Placement on synthetic topologies: no gang split, no GPU stranded while a legal packing exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.placement import Demand, Node, Placement, budget_allows, choose_gang_sizes, place_engines


def demand(key: str, gpus: int, *, limit: int | None = None, seconds: float = 1e6, **other: object) -> Demand:
    return Demand(key=key, gpus={"": gpus}, remaining_seconds=seconds, max_engines=limit, **other)  # type: ignore[arg-type]


def node(name: str, free: int, **other: object) -> Node:
    return Node(name=name, num_gpus=8, num_free=free, **other)  # type: ignore[arg-type]


def used_gpus(placements: Sequence[Placement]) -> int:
    return sum(p.gpus_per_node * len(p.nodes) for p in placements)


def most_gpus(holes: tuple[int, ...], gangs: tuple[int, ...]) -> int:
    """The best possible packing, by trying everything."""
    if not gangs:
        return 0
    first, rest = gangs[0], gangs[1:]
    best = most_gpus(holes, rest)
    for index in {holes.index(size) for size in holes if size >= first}:
        left = tuple(sorted((*holes[:index], holes[index] - first, *holes[index + 1 :])))
        best = max(best, first + most_gpus(left, rest))
    return best


topologies = st.lists(st.integers(0, 8), min_size=1, max_size=3)
bounded_gangs = st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 3)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(holes=topologies, gangs=bounded_gangs, seconds=st.lists(st.floats(1e3, 1e6), min_size=4, max_size=4))
def test_no_gpu_is_stranded_when_a_legal_packing_exists(
    holes: list[int], gangs: list[tuple[int, int]], seconds: list[float]
) -> None:
    nodes = [node(f"n{i}", free) for i, free in enumerate(holes)]
    demands = [demand(f"d{i}", size, limit=limit, seconds=seconds[i]) for i, (size, limit) in enumerate(gangs)]
    placed = place_engines(nodes, demands)
    waiting = sorted((size for size, limit in gangs for _ in range(limit)), reverse=True)
    assert used_gpus(placed) == most_gpus(tuple(sorted(holes)), tuple(waiting))


@settings(max_examples=200, deadline=None)
@given(holes=topologies, gangs=bounded_gangs)
def test_no_gang_is_split_and_no_node_overfilled(holes: list[int], gangs: list[tuple[int, int]]) -> None:
    nodes = [node(f"n{i}", free) for i, free in enumerate(holes)]
    demands = [demand(f"d{i}", size, limit=limit) for i, (size, limit) in enumerate(gangs)]
    taken: Counter[str] = Counter()
    engines: Counter[str] = Counter()
    for placement in place_engines(nodes, demands):
        assert len(placement.nodes) == 1
        assert placement.gpus_per_node == dict((f"d{i}", size) for i, (size, _) in enumerate(gangs))[placement.key]
        taken[placement.nodes[0]] += placement.gpus_per_node
        engines[placement.key] += 1
    assert all(taken[n.name] <= n.num_free for n in nodes)
    assert all(engines[f"d{i}"] <= limit for i, (_, limit) in enumerate(gangs))


def test_single_gpu_engines_leave_room_for_a_large_gang() -> None:
    """Ray spread six single GPUs 2/2/2 over three nodes, and then only three gangs of four fitted instead of four."""
    placed = place_engines(
        [node(f"n{i}", 8) for i in range(3)], [demand("one", 1, limit=6), demand("four", 4, limit=4)]
    )
    assert Counter(p.key for p in placed) == {"one": 6, "four": 4}


def test_engines_follow_the_remaining_work() -> None:
    placed = place_engines([node("n", 8)], [demand("big", 1, seconds=3e5), demand("small", 1, seconds=1e5)])
    assert Counter(p.key for p in placed) == {"big": 6, "small": 2}


def test_no_engine_starts_for_less_work_than_its_load() -> None:
    rest = demand("rest", 1, seconds=100.0, num_engines=1, load_seconds=60.0)
    assert place_engines([node("n", 1)], [rest]) == []
    assert len(place_engines([node("n", 1)], [demand("rest", 1, seconds=100.0, load_seconds=60.0)])) == 1


def test_higher_priority_goes_first() -> None:
    placed = place_engines([node("n", 2)], [demand("low", 1, seconds=1e9), demand("high", 1, seconds=1e4, priority=5)])
    assert Counter(p.key for p in placed) == {"high": 2}


def test_a_draining_node_gets_nothing() -> None:
    assert place_engines([node("n", 8, draining=True)], [demand("one", 1)]) == []


def test_a_node_near_its_walltime_gets_no_long_load() -> None:
    slow = demand("slow", 1, load_seconds=300.0)
    assert place_engines([node("n", 1, seconds_left=500.0)], [slow]) == []
    assert len(place_engines([node("n", 1, seconds_left=700.0)], [slow])) == 1


def test_types_decide_the_gang_size() -> None:
    model = Demand(key="m", gpus={"H200": 2, "A100": 4}, remaining_seconds=1e6)
    nodes = [node("h", 8, gpu_type="H200"), node("a", 8, gpu_type="A100"), node("l", 8, gpu_type="L40S")]
    placed = place_engines(nodes, [model])
    assert Counter((p.nodes[0], p.gpus_per_node) for p in placed) == {("h", 2): 4, ("a", 4): 2}


def test_a_gang_over_two_nodes_only_on_request() -> None:
    nodes = [node("a", 8), node("b", 8)]
    assert place_engines(nodes, [demand("m", 16)]) == []
    placed = place_engines(nodes, [demand("m", 16, num_nodes=2)])
    assert placed == [Placement(key="m", nodes=("a", "b"), gpus_per_node=8)]


def test_gang_sizes_grow_until_the_model_fits() -> None:
    fits = {("H200", 2), ("A100", 4), ("A100", 8)}
    sizes = choose_gang_sizes(lambda t, n: (t, n) in fits, {"H200": 8, "A100": 8, "L40S": 4}, wanted=1)
    assert sizes == {"H200": 2, "A100": 4}


@pytest.mark.parametrize(
    ("budget", "used", "committed", "next_hours", "allowed"),
    [(None, 9, 9, 9, True), (10, 5, 2, 2, True), (10, 5, 4, 2, False), (10, 10, 0, 1, False), (10, 9, 0, 5, True)],
)
def test_gpu_budget(budget: float | None, used: float, committed: float, next_hours: float, allowed: bool) -> None:
    assert budget_allows(budget, used, committed, next_hours) is allowed
