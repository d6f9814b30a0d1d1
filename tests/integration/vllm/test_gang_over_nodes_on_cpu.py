"""A real engine over two Ray nodes (raylets of this machine), in the group that the pool reserves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
pytest.importorskip("transformers")
ray = pytest.importorskip("ray")

from orchestrator.scheduler.chaos.cluster import DrillCluster, drill_environment  # noqa: E402
from orchestrator.scheduler.ray_gangs import give_back, reserve, spanning  # noqa: E402
from orchestrator.scheduler.ray_nodes import gpu_nodes  # noqa: E402
from orchestrator.scheduler.ray_pool import NAMESPACE  # noqa: E402
from tests.support.vllm_engines import run_requests, tiny_engine, tiny_model  # noqa: E402
from tests.support.vllm_requests import METHODS, requests  # noqa: E402
from workers.engine import Generation  # noqa: E402

SUPPORT = Path(__file__).parents[2] / "support" / "ray_on_cpu"

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]


class EngineActor:
    """Runs the requests where it is."""

    def results(self, folder: str, seed: int) -> dict[str, Any]:
        engine = tiny_engine(Path(folder), pipeline_parallel=2, num_nodes=2)
        try:
            return run_requests(engine, requests(seed))
        finally:
            engine.close()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DrillCluster]:
    for name, value in drill_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), os.environ["PYTHONPATH"]]))
    cluster = DrillCluster(tmp_path, cpus_per_node=1)
    try:
        for _ in range(2):
            cluster.add_node(gpus=1)
        ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.stop()


def test_two_stages_on_two_nodes_give_the_result_of_one_process(cluster: DrillCluster, tmp_path: Path) -> None:
    folder, seed = tmp_path / "tiny", 3
    tiny_model(folder)
    single = tiny_engine(folder)
    try:
        expected = run_requests(single, requests(seed))
    finally:
        single.close()
    nodes = [node.name for node in gpu_nodes(ray, {}, ())]
    actor = ray.remote(EngineActor).options(num_cpus=0.5, **spanning(reserve("gang", nodes, 1, 0.5))).remote()
    found: dict[str, Generation] = ray.get(actor.results.remote(str(folder), seed))
    assert [node.num_free for node in gpu_nodes(ray, {}, ())] == [0, 0], "the group holds both GPUs"
    give_back("gang")
    for name in METHODS:
        assert found[name].token_ids == expected[name].token_ids, name
        for figure in ("density_prefill", "density_decode", "kv_kept"):
            assert getattr(found[name], figure) == pytest.approx(getattr(expected[name], figure), abs=1e-6), name
