"""From a claim to the order that a worker gets."""

from __future__ import annotations

from orchestrator.store.leases import Claim
from orchestrator.store.plan import CampaignPlan
from workers.protocol import ShardOrder


def shard_order(plan: CampaignPlan, made: Claim) -> ShardOrder:
    """Identities and indices; the worker makes the prompts itself."""
    cell = plan.cells[made.cell_id]
    return ShardOrder(
        campaign=plan.name,
        cell_key=cell.key,
        shard_id=made.shard_id,
        attempt_id=made.attempt_id,
        engine=plan.engines[cell.engine_key],
        task=cell.task,
        length_tokens=cell.length_tokens,
        seed=cell.seed,
        indices=made.indices,
        isolated=made.isolated,
        method=cell.method,
        max_output_tokens=cell.max_output_tokens,
        max_in_flight=made.max_in_flight,
        sampling=cell.sampling,
    )
