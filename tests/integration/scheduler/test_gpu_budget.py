"""A campaign with a budget of GPU-hours stops when it is used up, and keeps what it has."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.domain.states import CampaignState
from orchestrator.scheduler.campaign import run_campaign
from orchestrator.scheduler.inline_pool import InlinePool
from orchestrator.store.campaigns import NewCampaign, Settings, create_campaign
from orchestrator.store.session import Store
from tests.support.campaigns import FAST, synthetic_cells

QUICK_LOOKS = replace(FAST, record_seconds=0.1)


def run_with_budget(store: Store, gpu_hours: float, num_samples: int) -> CampaignState:
    cells = synthetic_cells(num_cells=4, num_samples=num_samples, options={"seconds": 0.1})
    spec = {"gpu_hours": gpu_hours}
    create_campaign(
        store,
        NewCampaign(name="budget", cells=cells, spec=spec, engine_name="fake", settings=Settings(samples_per_shard=5)),
    )
    return run_campaign(store, "budget", InlinePool(1), settings=QUICK_LOOKS).header.state


def test_a_spent_budget_pauses_the_campaign(store: Store) -> None:
    assert run_with_budget(store, 0.3 / 3600, num_samples=400) is CampaignState.PAUSED


def test_a_large_budget_changes_nothing(store: Store) -> None:
    assert run_with_budget(store, 1.0, num_samples=20) is CampaignState.COMPLETE
