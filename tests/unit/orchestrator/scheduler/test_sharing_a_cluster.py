"""Two campaigns of different priority on the same nodes, each with a production loop of its own; wall time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.grid import Cell
from orchestrator.domain.placement import Node
from orchestrator.scheduler.loop import CampaignLoop
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.scheduler.simulation.faults import FaultTrace
from orchestrator.scheduler.simulation.sim_clock import SimClock
from orchestrator.scheduler.simulation.sim_pool import SimPool
from orchestrator.scheduler.simulation.sim_worker import SampleTime
from orchestrator.store.campaigns import NewCampaign, Settings, create_campaign, take_over
from orchestrator.store.engine_record import engine_from_json, to_json
from orchestrator.store.plan import load_plan
from orchestrator.store.schema import events
from orchestrator.store.session import Store, open_store
from workers.engine import EngineSpec
from workers.protocol import TaskOrder

NODES = [Node(name=name, num_gpus=4, num_free=4) for name in "ab"]
QUICK = LoopSettings(tick_seconds=0.0, look_seconds=0.0, lease_seconds=1e6, record_seconds=1e6, canary_seconds=0.0)


class SharedPool(SimPool):
    """Sees the GPUs that the other campaign's engines use."""

    other: SimPool | None = None

    def nodes(self) -> list[Node]:
        taken = self.other._used if self.other is not None else (lambda name: 0)
        return [replace(node, num_free=node.num_free - taken(node.name)) for node in super().nodes()]


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def store(tmp_path: Path, clock: SimClock) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store'}") as opened:
        clock.rule(opened)
        yield opened


def make_loop(
    store: Store,
    clock: SimClock,
    name: str,
    *,
    priority: int,
    gpus: int,
    samples: int,
    settings: LoopSettings = QUICK,
    **engine: Any,
) -> tuple[CampaignLoop, SharedPool]:
    cell = Cell(
        key=f"{name}-cell",
        model_name=name,
        engine=EngineSpec(model="m", max_model_len=128, max_in_flight=2, tensor_parallel=gpus, **engine),
        task=TaskOrder(name="synthetic", version=1, parameters={}),
        task_label="synthetic",
        length_tokens=32,
        seed=1,
        num_samples=samples,
        max_output_tokens=16,
    )
    spec = {"priority": priority}
    create_campaign(
        store, NewCampaign(name=name, cells=[cell], spec=spec, engine_name="x", settings=Settings(samples_per_shard=5))
    )
    fence = take_over(store, name, name, ttl_seconds=1e9)
    pool = SharedPool(
        NODES,
        FaultTrace(),
        clock,
        time_of=lambda _: SampleTime(10.0, 2),
        load_seconds=lambda _: 20.0,
        step_seconds=20.0,
    )
    loop = CampaignLoop(store, fence, load_plan(store, fence), pool, settings, clock)
    loop.start()
    return loop, pool


def engines(loop: CampaignLoop) -> int:
    return len(loop.members)


def test_the_urgent_campaign_gets_the_gpus_and_both_finish(store: Store, clock: SimClock) -> None:
    low, low_pool = make_loop(store, clock, "low", priority=0, gpus=1, samples=2000)
    for _ in range(20):
        low.tick()
    assert engines(low) == 8, "the record shows that more engines are worth it"
    high, high_pool = make_loop(store, clock, "high", priority=5, gpus=4, samples=600)
    low_pool.other, high_pool.other = high_pool, low_pool
    for _ in range(150):
        low.tick()
        high.tick()
        if engines(high) == 2:
            break
    assert engines(high) == 2  # two gangs of four: all eight GPUs
    assert engines(low) == 0
    going = {"low": True, "high": True}
    for _ in range(4000):
        going = {"low": going["low"] and low.tick(), "high": going["high"] and high.tick()}
        if not going["high"]:
            high_pool.close()
        if not any(going.values()):
            break
    assert going == {"low": False, "high": False}
    assert (low.num_unfinished, high.num_unfinished) == (0, 0)


def test_equal_priorities_leave_each_other_alone(store: Store, clock: SimClock) -> None:
    first, first_pool = make_loop(store, clock, "first", priority=1, gpus=1, samples=2000)
    for _ in range(10):
        first.tick()
    second, second_pool = make_loop(store, clock, "second", priority=1, gpus=1, samples=200)
    first_pool.other, second_pool.other = second_pool, first_pool
    for _ in range(40):
        first.tick()
        second.tick()
    assert (engines(first), engines(second)) == (8, 0)


def test_no_engine_is_loaded_just_before_the_wall_time(store: Store, clock: SimClock) -> None:
    """What is left must be twice what a load is known to take."""
    late, _ = make_loop(
        store, clock, "late", priority=0, gpus=1, samples=500, settings=replace(QUICK, wall_ends_at=200.0)
    )
    early, _ = make_loop(
        store, clock, "early", priority=0, gpus=1, samples=500, settings=replace(QUICK, wall_ends_at=2000.0)
    )
    for loop in (late, early):
        for key in loop._crew._hiring._engines:
            loop._crew._hiring.note_load(key, 120.0)
        for _ in range(5):
            loop.tick()
    assert (engines(late), engines(early)) == (0, 1)


def test_gangs_follow_the_type_of_the_gpu(store: Store, clock: SimClock) -> None:
    """Two engines of two GPUs on the host of large ones, one of four on the other."""
    loop, pool = make_loop(
        store, clock, "typed", priority=0, gpus=4, samples=5000, options={"tensor_parallel_by_gpu": {"H200": 2}}
    )
    pool._nodes = {n.name: replace(n, gpu_type=kind) for n, kind in zip(NODES, ("H200", "H100"), strict=True)}
    for _ in range(60):
        loop.tick()
    assert sorted((m.nodes[0], m.engine.tensor_parallel) for m in loop.members) == [("a", 2), ("a", 2), ("b", 4)]
    assert [node.num_free for node in pool.nodes()] == [0, 0]


def test_an_engine_larger_than_every_node_is_told_once(
    store: Store, clock: SimClock, caplog: pytest.LogCaptureFixture
) -> None:
    loop, _ = make_loop(store, clock, "huge", priority=0, gpus=8, samples=10)
    for _ in range(5):
        loop.tick()
    told = [record.message for record in caplog.records if "cannot start here" in record.message]
    assert len(told) == 1
    assert "huge cannot start here: it needs 8 GPUs of one node, and the largest node has 4" in told[0]
    with store.read() as connection:
        kinds = list(connection.execute(events.select().with_only_columns(events.c.kind)).scalars())
    assert kinds.count("no_room") == 1


def test_a_gang_over_two_nodes_starts_and_frees_both(store: Store, clock: SimClock) -> None:
    loop, pool = make_loop(store, clock, "wide", priority=0, gpus=2, samples=1000, pipeline_parallel=2, num_nodes=2)
    for _ in range(60):
        loop.tick()
    assert sorted(m.nodes for m in loop.members) == [("a", "b"), ("a", "b")]
    assert [node.num_free for node in pool.nodes()] == [0, 0]
    while loop.tick():
        pass
    assert loop.num_unfinished == 0


def test_a_gang_over_more_nodes_than_there_are_is_told(
    store: Store, clock: SimClock, caplog: pytest.LogCaptureFixture
) -> None:
    loop, _ = make_loop(store, clock, "broad", priority=0, gpus=3, samples=10, num_nodes=3)
    for _ in range(3):
        loop.tick()
    assert engines(loop) == 0
    assert "broad cannot start here: it needs 1 GPUs on each of 3 nodes, and 2 node(s) here have so many" in caplog.text


def test_engines_of_one_node_keep_the_key_that_older_stores_have() -> None:
    plain = to_json(EngineSpec(model="m", max_model_len=128))
    assert not {"pipeline_parallel", "num_nodes"} & set(plain)
    assert plain["rope_scaling"] is None
    assert engine_from_json(plain) == EngineSpec(model="m", max_model_len=128)
    wide = EngineSpec(model="m", max_model_len=128, tensor_parallel=2, num_nodes=2)
    assert engine_from_json(to_json(wide)) == wide
