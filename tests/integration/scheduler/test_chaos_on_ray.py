"""Real Ray, several raylets on this machine: adoption after a SIGKILL, and a short drill on each database."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.options import store_url as with_driver
from orchestrator.domain.states import CampaignState, WorkerState
from orchestrator.scheduler.chaos.cluster import DrillCluster
from orchestrator.scheduler.chaos.drill import run_drill
from orchestrator.scheduler.chaos.plan import ChaosPlan, load_plan_file
from orchestrator.scheduler.chaos.world import Orchestrators, World
from orchestrator.store import views
from orchestrator.store.session import open_store
from orchestrator.store.verify import verify_campaign
from tests.support.campaigns import make_campaign

EXAMPLES = Path(__file__).parents[3] / "examples"
SHORT = {
    "samples": 240,
    "cells": 6,
    "shard_samples": 10,
    "num_faults": 14,
    "seconds_between_faults": 1.5,
    "store_away_seconds": 5,
    "max_seconds": 480,
    "once": ["raylet_killed"],
}


def wait_for(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_orchestrators_workers_are_adopted_without_a_load(tmp_path: Path) -> None:
    url = with_driver(str(tmp_path / "store.sqlite"))
    cluster = DrillCluster(tmp_path, cpus_per_node=2)
    job: dict[str, object] = {
        "store": url,
        "campaign": "drill",
        "address": cluster.address,
        "num_workers": 2,
        "lease_seconds": 20.0,
        "stall_seconds": 20.0,
        "spool_folder": str(tmp_path / "spool"),
    }
    orchestrators = Orchestrators(tmp_path, job)
    try:
        cluster.add_node()
        with open_store(url) as store:
            make_campaign(store, num_samples=150, options={"seconds": 0.2, "process": True})
            first = orchestrators.start()
            wait_for(lambda: views.campaign_header(store).num_recorded >= 20)
            first.kill()
            first.wait()
            before = {w.name for w in views.campaign_snapshot(store).workers}
            epoch = views.campaign_header(store).epoch
            orchestrators.start()
            wait_for(lambda: views.campaign_header(store).epoch > epoch)
            wait_for(lambda: views.campaign_header(store).state is CampaignState.COMPLETE)
            after = views.campaign_snapshot(store).workers
            assert {w.name for w in after} == before
            assert [w.num_weight_loads for w in after] == [1] * len(before)
            assert all(w.state in (WorkerState.STOPPED, WorkerState.READY) for w in after)
            assert not [e for e in views.event_rows(store, limit=5000) if e.kind in ("expired", "refused")]
            assert verify_campaign(store).is_proven
    finally:
        orchestrators.kill_all()
        cluster.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_short_drill_loses_nothing(tmp_path: Path, database: str, request: pytest.FixtureRequest) -> None:
    if database == "postgresql":
        request.getfixturevalue("postgres_server")
    plan = load_plan_file(EXAMPLES / "chaos.yaml")
    short = ChaosPlan.model_validate({**plan.model_dump(), **SHORT, "store": database})
    told: list[str] = []
    report = run_drill(short, tmp_path, told.append)
    assert report.passed, (report.problems, told)
    assert report.proof.num_recorded == 240
    assert sum(report.faults.values()) >= 5, told


def test_a_store_that_is_blocked_already_is_no_second_fault(tmp_path: Path) -> None:
    plan = ChaosPlan.model_validate({"faults": {}})
    with open_store(with_driver(str(tmp_path / "store.sqlite"))) as store:
        world = World(plan, tmp_path, store, "", None, None, Orchestrators(tmp_path, {}), random.Random(1))
        assert world.block_sqlite(4.0)
        assert not world.block_sqlite(0.1)
        wait_for(lambda: world.block_sqlite(0.1))


def test_the_example_plans_are_valid() -> None:
    for name in ("chaos.yaml", "chaos_full.yaml"):
        plan = load_plan_file(EXAMPLES / name)
        assert len(plan.faults) + len(plan.once) >= 12
        assert sum(cell.num_samples for cell in plan.grid()) == plan.samples
