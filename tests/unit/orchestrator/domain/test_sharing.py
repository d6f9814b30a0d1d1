"""Who makes room for whom when campaigns share a cluster."""

from __future__ import annotations

from orchestrator.domain.placement import Node
from orchestrator.domain.sharing import Holding, Rival, engine_to_let_go, may_hire


def rival(*, ready: int, engines: int = 0, gpus: int = 1) -> Rival:
    return Rival(name="urgent", num_ready_shards=ready, num_engines=engines, gpus_wanted=gpus)


def holding(name: str, node: str = "n", *, gpus: int = 1, held: int = 5, leaving: bool = False) -> Holding:
    return Holding(name=name, node=node, gpus=gpus, num_held=held, is_leaving=leaving)


FULL = [Node(name="n", num_gpus=4, num_free=0), Node(name="m", num_gpus=4, num_free=1)]


def test_nobody_hires_while_an_urgent_campaign_has_work_that_waits() -> None:
    assert may_hire([])
    assert may_hire([rival(ready=0, engines=3)])
    assert not may_hire([rival(ready=1, engines=3)])


def test_an_engine_goes_when_the_rival_has_no_room() -> None:
    assert engine_to_let_go([], FULL, [holding("a")]) is None
    assert engine_to_let_go([rival(ready=9)], FULL[:1], [holding("a", held=9), holding("b", held=2)]) == "b"
    assert engine_to_let_go([rival(ready=9)], FULL, [holding("a")]) is None  # one GPU is free already


def test_the_node_that_comes_nearest_to_a_whole_gang_is_emptied_first() -> None:
    ours = [holding("a", "n", held=0), holding("b", "m", held=9), holding("c", "m", held=8)]
    assert engine_to_let_go([rival(ready=9, gpus=4)], FULL, ours) == "c"


def test_one_at_a_time_and_not_for_the_tail_of_a_campaign() -> None:
    assert engine_to_let_go([rival(ready=9)], FULL[:1], [holding("a", leaving=True), holding("b")]) is None
    assert engine_to_let_go([rival(ready=2, engines=3)], FULL[:1], [holding("a")]) is None
    assert engine_to_let_go([rival(ready=9, gpus=2)], FULL[:1], [holding("a", leaving=True), holding("b")]) == "b"
