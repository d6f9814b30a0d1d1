"""How many engines of each kind: shares, excess, least runs, making way."""

from __future__ import annotations

from collections import Counter

from orchestrator.domain.engine_mix import choose_engines, ideal_seconds, least_run_seconds, may_make_way
from orchestrator.domain.placement import Demand, Node


def kind(key: str, seconds: float, *, engines: int = 0, gpus: int = 1, **other: object) -> Demand:
    return Demand(key=key, gpus={"": gpus}, remaining_seconds=seconds, num_engines=engines, **other)  # type: ignore[arg-type]


NODE = [Node(name="n", num_gpus=8, num_free=8)]


def test_ideal_time_counts_gangs() -> None:
    assert ideal_seconds([kind("a", 400.0), kind("b", 100.0, gpus=4)], 8) == 100.0
    assert least_run_seconds([kind("a", 8000.0)], 8) == 8.0


def test_shares_follow_the_work() -> None:
    chosen = choose_engines(NODE, [kind("a", 600.0), kind("b", 200.0)])
    assert Counter(p.key for p in chosen) == {"a": 6, "b": 2}


def test_a_kind_that_ends_in_time_gets_no_further_engine() -> None:
    half = [Node(name="n", num_gpus=2, num_free=1)]
    assert choose_engines(half, [kind("a", 100.0, engines=1), kind("b", 100.0)])[0].key == "b"
    assert choose_engines(half, [kind("a", 100.0, engines=2)]) == []


def test_a_short_rest_is_not_worth_a_load() -> None:
    one_free = [Node(name="n", num_gpus=2, num_free=1)]
    work = [kind("a", 120.0, engines=1, load_seconds=10.0)]
    assert len(choose_engines(one_free, work)) == 1
    assert choose_engines(one_free, work, least_run_seconds=100.0) == []


def test_a_load_must_spare_every_engine_that_is_there() -> None:
    free = [Node(name="n", num_gpus=5, num_free=1)]  # T = 104 s, 104 s more than four engines do by then
    work = [kind("a", 520.0, engines=4)]
    assert len(choose_engines(free, work, least_run_seconds=20.0)) == 1
    assert choose_engines(free, work, least_run_seconds=30.0) == []


def test_a_kind_without_engines_gets_one_however_short() -> None:
    chosen = choose_engines(NODE, [kind("a", 10_000.0, engines=7), kind("tiny", 1.0)], least_run_seconds=1000.0)
    assert "tiny" in {p.key for p in chosen}


def test_an_engine_makes_way_when_its_kind_ends_in_time_without_it() -> None:
    demands = [kind("a", 90.0, engines=2), kind("b", 310.0, engines=2)]
    assert may_make_way("a", demands, num_gpus=4)
    assert not may_make_way("b", demands, num_gpus=4)
    assert not may_make_way("a", demands, num_gpus=4, least_run_seconds=200.0)


def test_nobody_makes_way_for_a_larger_gang_or_a_lower_priority() -> None:
    small = kind("a", 90.0, engines=2)
    assert not may_make_way("a", [small, kind("b", 310.0, engines=0, gpus=2)], num_gpus=4)
    low = kind("b", 310.0, engines=2, priority=-1)
    assert not may_make_way("a", [small, low], num_gpus=4)


def test_full_nodes_cost_nothing_to_ask() -> None:
    assert choose_engines([Node(name="n", num_gpus=8, num_free=0)], [kind("a", 1e6)]) == []
