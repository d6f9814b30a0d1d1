"""Engines over several nodes on real Ray: raylets of this machine with GPUs that are numbers, and the fake engine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.options import store_url
from orchestrator.domain.grid import Cell
from orchestrator.domain.states import CampaignState
from orchestrator.scheduler.campaign import run_campaign
from orchestrator.scheduler.chaos.cluster import DrillCluster, drill_environment
from orchestrator.scheduler.pool import Gone
from orchestrator.scheduler.ray_pool import RayPool
from orchestrator.store.campaigns import NewCampaign, Settings, create_campaign
from orchestrator.store.rows import CampaignSnapshot
from orchestrator.store.session import open_store
from tests.support.campaigns import FAST
from workers.engine import EngineSpec
from workers.exchange import WorkerMessage, WorkerReport, WorkerStart
from workers.protocol import TaskOrder

GANG = EngineSpec(model="wide", max_model_len=256, max_in_flight=8, tensor_parallel=2, pipeline_parallel=2, num_nodes=2)
SINGLE = EngineSpec(model="single", max_model_len=256, max_in_flight=8)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayPool]:
    """Two nodes of three GPUs each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in drill_environment().items():
            patch.setenv(name, value)
        cluster = DrillCluster(tmp_path_factory.mktemp("ray"), cpus_per_node=2)
        try:
            for _ in range(2):
                cluster.add_node(gpus=3)
            pool = RayPool(4, address=cluster.address, use_gpus=True, cpus_per_worker=0.5)
            yield pool
            pool.close()
        finally:
            cluster.stop()


def free_gpus(pool: RayPool) -> list[int]:
    return sorted(node.num_free for node in pool.nodes())


def wait_for_gpus(pool: RayPool, wanted: list[int]) -> None:
    deadline = time.monotonic() + 60.0
    while free_gpus(pool) != wanted:
        assert time.monotonic() < deadline, free_gpus(pool)
        time.sleep(0.2)


def ask(pool: RayPool, name: str) -> WorkerReport | Gone:
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        messages = {name: WorkerMessage(epoch=1)} if name in pool.free() else {}
        answers = pool.exchange(messages, 1.0)
        if name in answers:
            return answers[name]
    raise AssertionError(f"{name} was not heard")


def group_of(name: str) -> dict[str, Any]:
    import ray.util

    return dict(ray.util.placement_group_table(ray.util.get_placement_group(name)))


def test_a_gang_takes_equal_shares_of_its_nodes_and_gives_them_back(pool: RayPool) -> None:
    nodes = pool.nodes()
    assert pool.room(GANG) == 1
    pool.start(
        WorkerStart(
            name="wide-1",
            campaign="c",
            engine_name="fake",
            engine=GANG,
            node=nodes[1].name,
            more_nodes=(nodes[0].name,),
        )
    )
    report = ask(pool, "wide-1")
    assert isinstance(report, WorkerReport)
    assert report.node.rsplit(":", 1)[-1] == nodes[1].name[:12], "the engine's process is on the first node"
    group = group_of("wide-1")
    gpus = Counter(
        group["bundles_to_node_id"][index] for index, bundle in group["bundles"].items() if bundle.get("GPU")
    )
    assert gpus == {nodes[0].name: 2, nodes[1].name: 2}
    assert free_gpus(pool) == [1, 1]
    assert pool.room(GANG) == 0
    pool.stop(["wide-1"])
    wait_for_gpus(pool, [3, 3])


def test_a_successor_takes_a_gang_over_and_frees_its_gpus(pool: RayPool) -> None:
    a, b = pool.nodes()
    start = WorkerStart(name="wide-2", campaign="c", engine_name="fake", engine=GANG, node=a.name, more_nodes=(b.name,))
    pool.start(start)
    assert isinstance(ask(pool, "wide-2"), WorkerReport)
    for kept in (pool._actors, pool._pinned, pool._places):  # what a new orchestrator does not have
        kept.pop("wide-2")
    assert pool.adopt({"wide-2": GANG}) == {"wide-2"}
    assert free_gpus(pool) == [1, 1]
    pool.stop(["wide-2"])
    wait_for_gpus(pool, [3, 3])


def cell(engine: EngineSpec) -> Cell:
    return Cell(
        key=f"{engine.model}-cell",
        model_name=engine.model,
        engine=engine,
        task=TaskOrder(name="synthetic", version=1, parameters={}),
        task_label="synthetic",
        length_tokens=48,
        seed=0,
        num_samples=200,
        max_output_tokens=16,
    )


def test_a_campaign_runs_gangs_beside_single_engines(pool: RayPool, tmp_path: Path) -> None:
    """Of two times three GPUs the gang takes two each; the two left go to single engines."""
    seen: list[tuple[int, list[int]]] = []
    cells = [cell(GANG), cell(SINGLE)]
    with open_store(store_url(str(tmp_path / "store.sqlite"))) as store:
        new = NewCampaign(
            name="mixed", cells=cells, spec={}, engine_name="fake", settings=Settings(samples_per_shard=10)
        )
        create_campaign(store, new)

        def watch(_: CampaignSnapshot) -> None:
            seen.append((len(pool._actors), free_gpus(pool)))

        result = run_campaign(store, "mixed", pool, settings=FAST, on_snapshot=watch, snapshot_seconds=0.1)
    assert result.header.state is CampaignState.COMPLETE
    assert result.header.num_unscored == 0
    assert any(num > 1 and sum(free) <= 1 for num, free in seen), seen
