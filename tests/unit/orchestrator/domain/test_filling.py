"""Placement on synthetic topologies, through what production calls (`Hiring.choose`, `EngineMix.choose`): no gang is
split over nodes, and no GPU is stranded while a legal packing of the wanted engines would use it.

Which engines are wanted is decided above the packing (is a load worth its time?); so a GPU may stay idle on purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.best_filling import best_filling
from orchestrator.domain.engine_mix import EngineMix
from orchestrator.domain.filling import Wanted, place_engines, place_spanning, used_gpus
from orchestrator.domain.placement import Demand, Node, Placement
from orchestrator.scheduler.hiring import Hiring
from orchestrator.store.plan import Remaining
from workers.engine import GANGS_BY_GPU, EngineSpec

TYPES = ("H200", "A100", "L40S")
SIZES = (1, 2, 4, 8)


def node(name: str, free: int, **other: object) -> Node:
    return Node(name=name, num_gpus=8, num_free=free, **other)  # type: ignore[arg-type]


def demand(key: str, gpus: int | Mapping[str, int], *, seconds: float = 1e6, **other: object) -> Demand:
    sizes = {"": gpus} if isinstance(gpus, int) else gpus
    return Demand(key=key, gpus=sizes, remaining_seconds=seconds, **other)  # type: ignore[arg-type]


def most_gpus(nodes: Sequence[Node], engines: Sequence[Demand]) -> int:
    """The best possible packing of whole engines, by trying everything."""
    free = tuple(n.open_gpus for n in nodes)
    known: dict[tuple[tuple[int, ...], int], int] = {}

    def most(free: tuple[int, ...], index: int) -> int:
        if index == len(engines) or not any(free):
            return 0
        if (free, index) not in known:
            best = most(free, index + 1)
            for place, one in enumerate(nodes):
                size = engines[index].gang_size(one.gpu_type)
                late = one.seconds_left is not None and one.seconds_left <= 2 * engines[index].load_seconds
                if size is not None and size <= free[place] and not late:
                    left = (*free[:place], free[place] - size, *free[place + 1 :])
                    best = max(best, size + most(left, index + 1))
            known[free, index] = best
        return known[free, index]

    return most(free, 0)


def check_legal(nodes: Sequence[Node], demands: Mapping[str, Demand], placed: Sequence[Placement]) -> None:
    by_name = {n.name: n for n in nodes}
    taken: Counter[str] = Counter()
    for placement in placed:
        assert len(placement.nodes) == 1, "a gang was split"
        host = by_name[placement.nodes[0]]
        assert placement.gpus_per_node == demands[placement.key].gang_size(host.gpu_type)
        taken[host.name] += placement.gpus_per_node
    assert all(taken[n.name] <= n.open_gpus for n in nodes)


class WatchedMix(EngineMix):
    """Keeps what was wanted of the packing."""

    wanted: tuple[Wanted, ...] = ()

    def _plan(self, nodes: Sequence[Node], demands: Sequence[Demand], num_gpus: int):  # type: ignore[no-untyped-def]
        plan = super()._plan(nodes, demands, num_gpus)
        self.wanted = plan.wanted
        return plan


nodes_of_types = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from(TYPES), st.booleans(), st.sampled_from([None, None, 100.0, 1e7])),
    min_size=1,
    max_size=4,
)
gangs_by_type = st.dictionaries(st.sampled_from(("", *TYPES)), st.sampled_from(SIZES), min_size=1, max_size=4)
kinds = st.lists(
    st.tuples(gangs_by_type, st.floats(1e2, 1e6), st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=4
)


@settings(max_examples=200, deadline=None)
@given(hosts=nodes_of_types, kinds=kinds)
def test_no_gpu_is_stranded_that_a_wanted_engine_could_use(hosts: list[tuple], kinds: list[tuple]) -> None:  # type: ignore[type-arg]
    nodes = [
        node(f"n{i}", free, gpu_type=gpu, draining=draining, seconds_left=left)
        for i, (free, gpu, draining, left) in enumerate(hosts)
    ]
    demands = {
        f"k{i}": demand(f"k{i}", gangs, seconds=s, num_engines=n, max_engines=n + shards, load_seconds=60.0)
        for i, (gangs, s, n, shards) in enumerate(kinds)
    }
    mix = WatchedMix()
    placed = mix.choose(nodes, list(demands.values()))
    check_legal(nodes, demands, placed)
    waiting = [w.demand for w in mix.wanted for _ in range(w.number)]
    assert used_gpus(placed) >= most_gpus(nodes, waiting)


def engine(size: int, by_gpu: Mapping[str, int] | None = None) -> EngineSpec:
    options = {GANGS_BY_GPU: by_gpu} if by_gpu else {}
    return EngineSpec(model="m", tensor_parallel=size, max_model_len=1000, options=options)


@settings(max_examples=100, deadline=None)
@given(
    holes=st.lists(st.integers(0, 8), min_size=1, max_size=3),
    kinds=st.lists(st.tuples(st.sampled_from(SIZES), st.integers(1, 3)), min_size=1, max_size=4),
)
def test_production_starts_all_that_fits_at_the_start(holes: list[int], kinds: list[tuple[int, int]]) -> None:
    """Work without end: every kind wants as many engines as it has shards, and the packing is as full as can be."""
    engines = {f"k{i}": engine(size) for i, (size, _) in enumerate(kinds)}
    nodes = [node(f"n{i}", free) for i, free in enumerate(holes)]
    left = {f"k{i}": Remaining(shards, 10 * shards, 1e9 * (i + 1)) for i, (_, shards) in enumerate(kinds)}
    hiring = Hiring(engines)
    hiring._mix = watched = WatchedMix()  # what it wanted is not visible from outside
    placed = hiring.choose(nodes, left, [], [], 0.0)
    demands = {w.demand.key: w.demand for w in watched.wanted}
    if not demands:
        assert not any(holes)
        return
    check_legal(nodes, demands, placed)
    waiting = [w.demand for w in watched.wanted for _ in range(w.number)]
    assert used_gpus(placed) >= most_gpus(nodes, waiting)
    assert all(Counter(p.key for p in placed)[f"k{i}"] <= shards for i, (_, shards) in enumerate(kinds))


wanted_kinds = st.lists(st.tuples(gangs_by_type, st.integers(1, 3)), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None)
@given(hosts=nodes_of_types, kinds=wanted_kinds)
def test_filling_uses_as_many_gpus_as_any_legal_packing(hosts: list[tuple], kinds: list[tuple]) -> None:  # type: ignore[type-arg]
    nodes = [node(f"n{i}", free, gpu_type=gpu, draining=drains) for i, (free, gpu, drains, _) in enumerate(hosts)]
    wanted = [Wanted(demand(f"k{i}", gangs), number) for i, (gangs, number) in enumerate(kinds)]
    placed = place_engines(nodes, wanted)
    check_legal(nodes, {w.demand.key: w.demand for w in wanted}, placed)
    assert used_gpus(placed) == most_gpus(nodes, [w.demand for w in wanted for _ in range(w.number)])
    assert all(Counter(p.key for p in placed)[w.demand.key] <= w.number for w in wanted)


def test_a_wanted_engine_starts_on_a_free_gpu_although_later_time_would_do() -> None:
    """Kind b fits into what one engine of a can spare at the end; yet a GPU is free now, and b's load is wanted."""
    half = [Node(name="n", num_gpus=3, num_free=1)]
    work = [demand("a", 1, seconds=100.0, num_engines=2), demand("b", 1, seconds=40.0)]
    assert [p.key for p in EngineMix([0.5], 0.0).choose(half, work)] == ["b"]


def test_a_gpu_stays_idle_where_no_load_is_worth_it() -> None:
    rest = demand("rest", 1, seconds=100.0, num_engines=1, load_seconds=60.0)
    assert EngineMix([0.0], 0.0).choose([Node(name="n", num_gpus=2, num_free=1)], [rest]) == []


def test_types_with_different_sizes_need_a_search() -> None:
    """Greedy, the pair of H200s goes to the kind with more work, and the other one runs nowhere."""
    nodes = [node("h", 2, gpu_type="H200"), node("a", 4, gpu_type="A100")]
    both = Wanted(demand("both", {"H200": 2, "A100": 4}, seconds=9e6), 1)
    only = Wanted(demand("only", {"H200": 2}), 1)
    placed = place_engines(nodes, [both, only])
    assert {(p.key, p.nodes[0]) for p in placed} == {("both", "a"), ("only", "h")}


def test_a_search_without_end_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.domain.best_filling.MOST_STATES", 1)
    nodes = [node(f"n{i}", 5) for i in range(4)]
    assert best_filling(nodes, [(demand("two", 2), 2), (demand("three", 3), 2)]) == []


def test_the_plan_is_kept_unless_more_gpus_would_be_used() -> None:
    nodes = [node("a", 4), node("b", 4)]
    wanted = [Wanted(demand("one", 1), 1), Wanted(demand("four", 4), 2)]
    good = [Placement(key="four", nodes=("b",), gpus_per_node=4)]
    assert place_engines(nodes, wanted, good)[0] == good[0]
    bad = [Placement(key="one", nodes=("a",), gpus_per_node=1)]
    assert Counter(p.key for p in place_engines(nodes, wanted, bad)) == {"four": 2}


def test_single_gpu_engines_leave_room_for_a_large_gang() -> None:
    """Ray spread six single GPUs 2/2/2 over three nodes, and then only three gangs of four fitted instead of four."""
    nodes = [node(f"n{i}", 8) for i in range(3)]
    placed = place_engines(nodes, [Wanted(demand("one", 1), 6), Wanted(demand("four", 4), 4)])
    assert Counter(p.key for p in placed) == {"one": 6, "four": 4}


def test_higher_priority_goes_first() -> None:
    low, high = demand("low", 1, seconds=1e9), demand("high", 1, seconds=1e4, priority=5)
    assert Counter(p.key for p in place_engines([node("n", 2)], [Wanted(low, 2), Wanted(high, 2)])) == {"high": 2}


def test_a_node_near_its_walltime_gets_no_long_load() -> None:
    slow = Wanted(demand("slow", 1, load_seconds=300.0), 1)
    assert place_engines([node("n", 1, seconds_left=500.0)], [slow]) == []
    assert len(place_engines([node("n", 1, seconds_left=700.0)], [slow])) == 1


def test_a_gang_over_two_nodes_only_on_request() -> None:
    nodes = [node("a", 8), node("b", 8), node("c", 8, gpu_type="A100")]
    assert EngineMix().choose(nodes, [demand("m", 16)]) == []
    spanning = demand("m", 16, num_nodes=2)
    assert EngineMix().choose(nodes, [spanning]) == [Placement(key="m", nodes=("a", "b"), gpus_per_node=8)]
    placed, left = place_spanning(nodes, [Wanted(demand("m", 8, num_nodes=2), 3)])
    assert [p.nodes for p in placed] == [("a", "b"), ("a", "b")]
    assert [n.num_free for n in left] == [0, 0, 8]


def test_a_spanning_gang_leaves_the_rest_to_others() -> None:
    nodes = [node("a", 8), node("b", 6)]
    work = [demand("wide", 8, num_nodes=2, max_engines=1), demand("one", 1, seconds=6e6)]
    placed = EngineMix().choose(nodes, work)
    assert Counter(p.key for p in placed) == {"wide": 1, "one": 6}
    assert used_gpus(placed) == 14


@pytest.mark.parametrize("size", [3, 5, 6])
def test_odd_sizes(size: int) -> None:
    nodes = [node("a", 8), node("b", 7)]
    wanted = [Wanted(demand("odd", size), 2), Wanted(demand("two", 2), 3)]
    placed = place_engines(nodes, wanted)
    assert used_gpus(placed) == most_gpus(nodes, [w.demand for w in wanted for _ in range(w.number)])
