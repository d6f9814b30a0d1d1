"""Small synthetic campaigns for tests of the control plane: no model, no text, deterministic outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.domain.grid import Cell
from orchestrator.domain.retry import RetryPolicy
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.store import views
from orchestrator.store.campaigns import NewCampaign, Settings, create_campaign
from orchestrator.store.session import Store
from workers.engine import EngineSpec
from workers.protocol import TaskOrder

QUEST = {"decode": {"name": "quest", "token_budget": 64}}
FAST = LoopSettings(
    tick_seconds=0.02,
    look_seconds=0.1,
    lease_seconds=10.0,
    campaign_lease_seconds=2.0,
    stall_seconds=1.0,
    grace_seconds=3.0,
    policy=RetryPolicy(first_delay_seconds=0.1),
)


def synthetic_cells(
    num_cells: int = 4, num_samples: int = 20, options: Mapping[str, Any] | None = None, models: int = 1
) -> list[Cell]:
    """Cells in pairs: dense and Quest on the same prompts."""
    return [
        Cell(
            key=f"{model}-cell-{position}",
            model_name=f"model-{model}",
            engine=EngineSpec(model=f"none-{model}", max_model_len=256, max_in_flight=8, options=dict(options or {})),
            task=TaskOrder(name="synthetic", version=1, parameters={}),
            task_label="synthetic",
            length_tokens=48,
            seed=position // 2,
            num_samples=num_samples,
            method=QUEST if position % 2 else {},
            method_label="quest" if position % 2 else "dense",
            max_output_tokens=16,
        )
        for model in range(models)
        for position in range(num_cells)
    ]


def make_campaign(store: Store, name: str = "drill", *, samples_per_shard: int = 5, **grid: Any) -> int:
    """A campaign of synthetic cells on the fake engine."""
    new = NewCampaign(
        name=name,
        cells=synthetic_cells(**grid),
        spec={"drill": name},
        engine_name="fake",
        settings=Settings(samples_per_shard=samples_per_shard),
    )
    return create_campaign(store, new)


def outcome_table(store: Store, name: str = "drill") -> dict[tuple[str, int], tuple[Any, ...]]:
    """What was recorded, without times and attempts: equal for equal campaigns, whatever happened on the way."""
    return {
        (o.cell_key, o.sample_index): (o.verdict, o.score, o.prompt_hash, o.extracted, o.completion)
        for o in views.iter_outcomes(store, name, with_completions=True)
    }
